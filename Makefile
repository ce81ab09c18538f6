# Every target sets up .venv by itself: on a fresh machine with Python 3.11+, `make demo` or `make test` is enough.

PYTHON ?= python3
# PyPI's torch for Linux brings CUDA along; PyTorch's own index has one without:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
KEEP ?=
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt

.PHONY: demo test chaos drill check audit format clean

demo: .venv/demo.stamp
	$(BIN)/python -m worker.demo $(if $(KEEP),--keep)

# Tests mostly wait for real servers, so several processes share the cores. One thread of torch each: more would spin
# while they wait for one another's cores.
test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Sends two thousand requests while Redis freezes for 20 s at a time; CHAOS_SEED=2 draws other failures.
chaos: .venv/dev.stamp
	CHAOS_TASKS=2000 CHAOS_FREEZE_S=20 $(BIN)/python -m pytest tests/chaos -k nothing_is_lost

# Breaks one thing after the other under a real Prometheus and Alertmanager: apt install prometheus prometheus-alertmanager.
drill: .venv/dev.stamp
	$(BIN)/python -m tests.monitoring.drill --picture drill.png

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Lists known weaknesses of installed packages. Not part of `check`, because a new advisory must not stop work.
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

# torch first and alone: pip then takes the pinned build, and no newer one for another package's sake.
.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(INSTALL) --editable '.[dev]'
	@touch $@
