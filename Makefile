# Every target sets itself up in .venv; `make demo` and `make test` are all a fresh machine with Python 3.11+ needs.

PYTHON ?= python3
# Elsewhere than here PyPI's torch for Linux brings CUDA along; this keeps it small:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
KEEP ?=
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt

.PHONY: demo test chaos check audit format clean

demo: .venv/demo.stamp
	$(BIN)/python -m worker.demo $(if $(KEEP),--keep)

# Most of the time is spent waiting for real servers, so several processes share the tests.
test: .venv/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Two thousand requests, and Redis frozen for 20 s at a time; CHAOS_SEED=2 for another day.
chaos: .venv/dev.stamp
	CHAOS_TASKS=2000 CHAOS_FREEZE_S=20 $(BIN)/python -m pytest tests/chaos -k nothing_is_lost

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known weaknesses of what is installed; not part of `check`, as a new advisory must not stop work.
audit: .venv/dev.stamp
	$(BIN)/pip-audit --skip-editable --progress-spinner off

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# torch by itself first: named outright, pip takes the pinned build and no newer one for some other package.
.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(INSTALL) --editable '.[dev]'
	@touch $@
