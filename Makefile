# The two commands: `make reproduce` runs the experiments, `make test` the tests. Both set up .venv on first use.
PYTHON ?= python3
PRESET ?= laptop
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: help setup reproduce figures test test-rounding test-slow record lint bench check docs clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   run every experiment (PRESET=smoke|laptop|paper, default laptop) and write results/report.html"
	@echo "make test        run the tests            make test-slow   run the long ones"
	@echo "make test-rounding   the numerical tests with other last digits"
	@echo "make lint        ruff and mypy            make bench       the benchmarks, into benchmarks/results.md"
	@echo "make figures     draw the figures again from the stored tables"
	@echo "make check       have the smoke results moved since results/baseline/smoke.json? (PRESET=smoke make reproduce first)"
	@echo "make record      into docs/results what make reproduce left, to be committed"
	@echo "make docs        build the documentation into site/"
	@echo "make clean       remove .venv and caches; results stay"

setup: $(READY)

# A file target, so that a second call installs nothing. The pins come from constraints.txt.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ntkrun needs CPython 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

reproduce: $(READY)
	$(BIN)/ntkrun reproduce --preset $(PRESET)

figures: $(READY)
	@for run in $(wildcard results/*/sweep.yaml results/*/*/sweep.yaml); do $(BIN)/ntkrun plot "$$(dirname "$$run")" || exit; done

test: $(READY)
	$(BIN)/python -m pytest -n auto

# The numbers of tests must not hang on the last digit: MKL's most compatible code rounds otherwise than a processor's own.
test-rounding: $(READY)
	MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/engine tests/theory tests/evidence tests/test_broken_engine.py

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ntkrun check results/smoke/width --baseline results/baseline/smoke.json

# Commit what a finished run left, once it has been looked at: the verdicts, and of laptop the summary and the figures.
record: $(READY)
	$(BIN)/python -m ntkrun.experiments.recorded $(if $(filter laptop,$(PRESET)),results,results/$(PRESET))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/run.py

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(DOCS_READY)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
