# The two main commands: `make reproduce` runs the experiments, `make test` runs the tests. Both set up .venv on first use.
PYTHON ?= python3
PRESET ?= laptop
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready

.PHONY: help setup reproduce figures test test-rounding test-lowest test-slow record lint bench check docs clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   run every experiment (PRESET=smoke|laptop|paper, default laptop) and write results/report.html"
	@echo "make test        run the tests            make test-slow   run the long ones"
	@echo "make test-rounding   run the numerical tests with a library that rounds differently"
	@echo "make test-lowest run some quick tests with the lowest versions that pyproject.toml allows; needs Python 3.11"
	@echo "make lint        run ruff and mypy        make bench       run the benchmarks and write benchmarks/results.md"
	@echo "make figures     draw the figures again from the stored tables"
	@echo "make check       compare the smoke results with results/baseline/smoke.json (run PRESET=smoke make reproduce first)"
	@echo "make record      copy the results of make reproduce into docs/results, to be committed"
	@echo "make docs        build the documentation into site/"
	@echo "make clean       remove .venv, .venv-lowest and caches; results stay"

setup: $(READY)

# This target is a file, so a second call installs nothing. constraints.txt pins the versions.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ntkrun needs CPython 3.11 or newer; $(PYTHON) is older. Choose another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

reproduce: $(READY)
	$(BIN)/ntkrun reproduce --preset $(PRESET)

figures: $(READY)
	@for run in $(wildcard results/*/sweep.yaml results/*/*/sweep.yaml); do $(BIN)/ntkrun plot "$$(dirname "$$run")" || exit; done

test: $(READY)
	$(BIN)/python -m pytest -n auto

# Tests must not depend on the last digit: MKL's most compatible code rounds differently from the code for a specific processor.
test-rounding: $(READY)
	MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/engine tests/theory tests/evidence tests/test_broken_engine.py

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# A separate environment with the lowest allowed version of every dependency except torch. tests/lowest.py reads them from
# pyproject.toml.
$(LOWEST_READY): pyproject.toml constraints.txt tests/lowest.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "make test-lowest needs CPython 3.11, which has wheels of all the lowest versions; $(PYTHON) is another version. Choose it: make test-lowest PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) tests/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt -e ".[test,ray,tensorboard]"
	@touch $@

# These tests run every command once and every use of each library, in a minute or two. Quick test files are run whole.
LOWEST_TESTS := tests/test_lowest.py tests/test_rooms.py tests/commands/test_commands.py tests/config/test_shipped_configs.py \
  $(addprefix tests/commands/test_cli.py::test_, sweep_says_what_came_out_and_leaves_the_files_of_the_contract \
    no_plots_draws_nothing_and_plot_makes_up_for_it status_is_a_table validate a_mistake_is_a_sentence_and_exit_code_2 \
    lists_name_what_a_config_may schema_is_a_json_schema_of_the_config version_and_help_answer_without_torch \
    kernel_limit_and_empirical) \
  $(addprefix tests/commands/test_cli_evidence.py::test_, check_pairs_seeds_under_another_name_and_is_inconclusive_with_one \
    reproduce_runs_an_experiment_and_tells_it_as_json a_sweep_that_should_diverge) \
  tests/evidence/report/test_gather.py::test_the_command_writes_a_page_or_prints_a_summary \
  tests/config/test_reader.py tests/config/test_yaml.py tests/store/test_directory.py tests/store/test_stored_tables.py tests/doctor/test_doctor.py \
  tests/plan/test_slurm.py tests/run/test_ray.py::test_stacks_give_bitwise_what_they_give_here \
  tests/evidence/test_figures.py::test_every_figure_is_drawn_and_labelled \
  tests/evidence/test_figures.py::test_the_same_tables_give_the_same_bytes \
  tests/evidence/test_claims.py::test_a_claim_is_supported_where_it_holds tests/evidence/report/test_page.py tests/evidence/report/test_report_tables.py \
  tests/data/test_data_sets.py tests/data/test_data_files.py tests/theory/test_limit.py

# Old libraries warn about deprecated uses of other libraries (matplotlib 3.9 about pyparsing, typer about click), so warnings are
# not errors here. -m '' includes the Ray test, which is marked as slow.
test-lowest: $(LOWEST_READY)
	$(LOWEST)/bin/python -m pytest -n auto -W ignore -m '' -k 'not fifty_layers and not a_kill_at_any_moment' $(LOWEST_TESTS)

check: $(READY)
	$(BIN)/ntkrun check results/smoke/width --baseline results/baseline/smoke.json

# Copies the results of a finished run: the verdicts, and for laptop the summary and the figures. Look at them, then commit them.
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
	rm -rf $(VENV) $(LOWEST) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
