# Three images, by target:
#   cpu          everything on one machine, without a GPU (the default)
#   service      `hone serve` alone, over engines that run elsewhere: no torch
#   learner-gpu  `hone learn` on a GPU
# The engine on a GPU is vLLM's own image, started by deploy/vllm/start.sh; deploy/compose.yaml puts all together.
#   docker build -t hone .
#   docker run -v hone:/home/hone/state hone keys create --role operator --name me
#   docker run -p 8000:8000 -v hone:/home/hone/state hone
# Adapters in an object store: --build-arg EXTRAS=s3, or gcs, or both with a comma.
# Mount a volume on /home/hone/state: it holds everything that must survive.

# What all have in common, but for what is installed.
FROM python:3.11-slim AS source
RUN useradd --create-home --uid 1000 hone && install -d -o hone -g hone /home/hone/state /home/hone/state/adapters
WORKDIR /opt/hone
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/
COPY service service
COPY learner learner
COPY ui ui
ENV HONE_HOME=/home/hone/state HONE_SERVER__HOST=0.0.0.0 PIP_NO_CACHE_DIR=1
VOLUME /home/hone/state
ENTRYPOINT ["hone"]

FROM source AS service
ARG EXTRAS=
RUN pip install -c deploy/constraints.txt ".${EXTRAS:+[$EXTRAS]}"
USER hone
EXPOSE 8000
CMD ["serve"]

# PyPI's torch for Linux brings CUDA. bitsandbytes is for bases in 4 bits.
FROM source AS learner-gpu
ARG EXTRAS=
RUN pip install -c deploy/constraints.txt ".[nf4${EXTRAS:+,$EXTRAS}]"
USER hone
CMD ["learn"]

# Last, so that a build without --target makes it. This index has torch without CUDA, several GB smaller.
FROM source AS cpu
# For the embedded engine, which compiles its kernel for the processor that it runs on.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
RUN pip install --extra-index-url ${TORCH_INDEX} -c deploy/constraints.txt torch \
    && pip install -c deploy/constraints.txt ".[learner${EXTRAS:+,$EXTRAS}]"
USER hone
EXPOSE 8000
CMD ["up"]
