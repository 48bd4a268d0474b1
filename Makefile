# Each target does all its own set-up: a local .venv, then the work. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DATA ?= data/demo
DEMO_OUT ?= work_dirs/demo
DEMO_ARGS ?=
# Scenes that a small encoder trained on rendered scenes alone can tell apart; the defaults of `data synth` are harder
SYNTH_ARGS ?= --train 200 --test 60 body_variety=0 background_colour=0.1 max_distractors=1 max_clutter=15 \
  min_radius=0.18 max_radius=0.34 max_objects=3
TEST_ARGS ?=
# Processes that share the tests; those of one file stay together, for they share what the file trains
TEST_WORKERS ?= 2

.PHONY: help install dev demo test lint types clean

help:
	@echo "make demo   the whole pipeline, offline, on synthetic scenes (six to nine minutes on two cores, after installation)"
	@echo "make test   the test suite, in two processes"
	@echo "make lint   ruff check and ruff format --check"
	@echo "make types  mypy, strict where pyproject.toml says so"
	@echo "make clean  remove the demo's data and results (never .venv)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: installed again only when the declared dependencies change.
$(VENV)/.installed: $(BIN)/python pyproject.toml setup.py
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/weaksam data synth $(DEMO_DATA) $(SYNTH_ARGS)
	$(BIN)/weaksam run configs/demo.yaml data.train.images=$(DEMO_DATA)/train data.train.tags=$(DEMO_DATA)/tags_train.json \
	  data.train.truth=$(DEMO_DATA)/instances_train.json data.test.images=$(DEMO_DATA)/test \
	  data.test.truth=$(DEMO_DATA)/instances_test.json out=$(DEMO_OUT) $(DEMO_ARGS)

test: dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TEST_ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

clean:
	rm -rf $(DEMO_DATA) $(DEMO_OUT)
