# Needs Python 3.11 to 3.14, git and make; everything else is installed into .venv from requirements.lock, checked by hash.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fedsam-setup
DOCS_STAMP := $(VENV)/.fedsam-docs
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements-uv.lock)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Tests that start Ray stay together in one of the processes (tests/conftest.py).
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 4 --dist loadgroup

# A wheel of the CUDA libraries is hundreds of megabytes: give slow lines time.
export UV_HTTP_TIMEOUT ?= 300

# Tests and actors are many processes: each would compile torch anew, for seconds, where Python is told to keep nothing that it compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test tests proofs bench docs check format lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Make .venv and install the pinned dependencies (does nothing when nothing changed)

quickstart: setup ## Compare SGD and SAM clients in one to three minutes, and write a report
	$(BIN)/fedsam run experiments/configs/quickstart.toml

test: setup ## Lint, types and tests, side by side; PYTEST_ARGS adds options
	@$(MAKE) --no-print-directory --jobs 2 check tests

tests: setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

proofs: setup ## The tests that take long (half an hour, nothing else at work): Ray, Flower's runtime, CIFAR-10 from FEDSAM_DATA
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

bench: setup ## Time and memory beside bare PyTorch and Flower, an hour with nothing else at work; BENCH_ARGS adds options, such as --quick
	$(BIN)/fedsam bench $(BENCH_ARGS)

docs: setup $(DOCS_STAMP) ## Build the documentation into site/, which opens offline; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

check: setup ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## Resolve the dependencies again, keeping locked versions where they still fit
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --group docs --constraint requirements.lock --output-file requirements-docs.lock
	sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock | $(COMPILE) --output-file requirements-uv.lock -

clean: ## Remove .venv, the built documentation and the tools' caches
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(STAMP): requirements.lock requirements-uv.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -c '$(SUPPORTED)' || { echo "make: $(BIN)/python is broken or not Python 3.11 to 3.14: remove $(VENV) and run make again" >&2; exit 1; }
	@case "$$($(BIN)/uv --version 2>/dev/null) " in "uv $(UV_VERSION) "*) ;; *) \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock;; esac
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS_STAMP): requirements-docs.lock $(STAMP)
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements-docs.lock
	@touch $@

$(BIN)/python:
	@new=; for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c '$(SUPPORTED)' 2>/dev/null; then \
	    echo "make: $(VENV) from $$($$python --version)"; \
	    test -e $(VENV) || new=$(VENV); \
	    $$python -m venv $(VENV) && exit 0; \
	    rm -rf "$$new"; \
	    echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu install its package python3-venv" >&2; exit 1; \
	  fi; \
	done; \
	echo "make: Python 3.11 to 3.14 is needed; python3, python3.14, python3.13, python3.12 and python3.11 are not that" >&2; exit 1
