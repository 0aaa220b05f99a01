# make run    set up and run the quickstart on real photographs
# make test   set up and run the tests
# make docs   build the documentation
# make check  format, lint, types and tests: what CI runs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two threads per process suit a small machine; the results do not depend on it.
export OMP_NUM_THREADS ?= 2
# One process of tests more than cores, as some tests wait; whole files together since they share what they set up, and
# in order of their names, so that the long ones of integration/ come first.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# The shapes in signatures are checked at every call, which takes a third of the tests' time.
MEASURES := attribution audit circuit insertion interlayer localization planted reconstruction repair saturation \
	shortcut stability transfer
MATHS := network receptive_field attribution dictionaries intervene measures.statistics measures.unit_scores \
	$(MEASURES:%=measures.%.scores) measures.interlayer.orders $(addprefix measures.planted.,circuits models networks trial)
COMMA := ,
EMPTY :=
SHAPES := --jaxtyping-packages=$(subst $(EMPTY) $(EMPTY),$(COMMA),$(MATHS:%=vismech.%)),beartype.beartype

.PHONY: run test docs check format lint types slow coverage

run: $(VENV)/.run
	$(BIN)/vismech experiment=quickstart

test: $(VENV)/.dev
	$(PYTEST)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo outputs/site/index.html

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(PYTEST) $(SHAPES) -m "not slow"

slow: $(VENV)/.dev
	$(PYTEST) $(SHAPES) -m "slow or not slow or gpu"

coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-branch --cov-report=term

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[cpu,samples]"
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[cpu,samples,dev]"
	touch $@ $(VENV)/.run

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@
