# Set-up, checks and the demonstration. Needs make and Python 3.11 or newer; everything else goes into $(VENV).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
LOCK := requirements.lock
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# The first interpreter that is new enough and can make environments; `make demo PYTHON=python3.12` chooses another.
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?=

DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
BENCH_OUT ?= docs/results/refrigerator
WORKERS ?= 2
TYPED := controlkit deploy envs tools
# The tests run side by side: one thread each, or they fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help install demo test lint format bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(INSTALLED) ## create the environment and install the locked versions (done by the others when needed)

$(PY):
	@new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	for python in $(or $(PYTHON),$(CANDIDATES)); do \
	  "$$python" -c "$$new_enough" >/dev/null 2>&1 || continue; \
	  found="$$python"; \
	  "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	  echo "creating $(VENV) with $$("$$python" --version)"; \
	  exec "$$python" -m venv "$(VENV)"; \
	done; \
	if [ -n "$${found:-}" ]; then \
	  echo "error: $$found cannot create a virtual environment: its module venv or ensurepip is missing." \
	    "Install it (Debian and Ubuntu: the package python3-venv), or name another: make PYTHON=/path/to/python" >&2; \
	else \
	  echo "error: no Python 3.11 or newer among: $(or $(PYTHON),$(CANDIDATES))." \
	    "Install one, or name it: make PYTHON=/path/to/python" >&2; \
	fi; \
	exit 1

# The stamp is written last: an interrupted installation is taken up again, a finished one is left alone.
$(INSTALLED): $(LOCK) pyproject.toml | $(PY)
	$(PY) -m pip install --disable-pip-version-check --requirement $(LOCK)
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## from a plant log to a report and a safe controller, on the refrigerator (DEMO_ARGS=...)
	$(PY) -m controlkit.demo $(DEMO_ARGS)

test: $(INSTALLED) ## run the tests (TEST_ARGS=..., WORKERS=2)
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist worksteal $(TEST_ARGS)

lint: $(INSTALLED) ## style, format, types and import directions
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(TYPED)
	$(VENV)/bin/lint-imports

format: $(INSTALLED) ## rewrite the sources in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(INSTALLED) ## the refrigerator benchmark: prints the figures, writes them to BENCH_OUT
	$(VENV)/bin/controlkit benchmark refrigerator --out $(BENCH_OUT) $(BENCH_ARGS)

# Only names and versions that hold on every machine: no local build tags, no GPU libraries, nothing of the project itself.
lock: ## write the lock file from what is installed in the environment
	@{ echo "# Every version that make installs; written by 'make lock' from a working environment."; \
	  $(PY) -m pip freeze --all --exclude-editable --exclude controlkit --exclude pip \
	  | sed -E 's/\+[a-z0-9.]+$$//' | grep -v -i -E '^(nvidia-|cuda-|triton)'; } > $(LOCK).new
	@mv $(LOCK).new $(LOCK)

clean: ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
