# Hone on one machine, without a GPU. Mount a volume on /home/hone/state: it holds everything that must survive.
#   docker build -t hone .
#   docker run -v hone:/home/hone/state hone keys create --role operator --name me
#   docker run -p 8000:8000 -v hone:/home/hone/state hone
FROM python:3.11-slim

RUN useradd --create-home hone
WORKDIR /opt/hone
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/
COPY service service
COPY learner learner
COPY ui ui
RUN pip install --no-cache-dir -c deploy/constraints.txt torch && pip install --no-cache-dir -c deploy/constraints.txt .

USER hone
ENV HONE_HOME=/home/hone/state HONE_SERVER__HOST=0.0.0.0
RUN mkdir /home/hone/state
VOLUME /home/hone/state
EXPOSE 8000
ENTRYPOINT ["hone"]
CMD ["up"]
