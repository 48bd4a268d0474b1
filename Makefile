# Each target does all its own set-up: a local .venv, then the work. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DATA ?= data/demo
DEMO_OUT ?= work_dirs/demo
DEMO_ARGS ?=
WEAKSAM ?= $(BIN)/weaksam
DEMO_CONFIG ?= configs/demo_quick.yaml
# Scenes that a small encoder trained on rendered scenes alone can tell apart; the defaults of `data synth` are harder
SCENES := body_variety=0 background_colour=0.1 max_distractors=1 max_clutter=15 min_radius=0.18 max_radius=0.34 \
  max_objects=3
SYNTH_ARGS ?= --train 180 --test 40 size=192 $(SCENES)
TEST_ARGS ?=
# Processes that share the tests; those of one file stay together, for they share what the file trains
TEST_WORKERS ?= 2

DIST ?= dist
# An environment with the built wheel alone, which borrows its dependencies from .venv
WHEEL_VENV ?= build/wheel-venv

.PHONY: help install dev demo demo-full test test-slow lint types dist wheel docs clean

help:
	@echo "make demo   the whole pipeline, offline, on synthetic scenes (four minutes on two cores, after installation)"
	@echo "make demo-full   the same at 256 pixels, the scenes of docs/results.md (six to nine minutes)"
	@echo "make test   the test suite, in two processes, but for its slow tests"
	@echo "make test-slow   the slow tests: hostile files, kills, helper processes, published recipes"
	@echo "make lint   ruff check and ruff format --check"
	@echo "make types  mypy, strict where pyproject.toml says so"
	@echo "make dist   the source distribution, and from it the wheel, in dist/"
	@echo "make wheel  install the built wheel in an environment of its own: build/wheel-venv/bin/weaksam"
	@echo "make docs   the pages as a site in build/site"
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
	$(WEAKSAM) data synth $(DEMO_DATA) $(SYNTH_ARGS)
	$(WEAKSAM) run $(DEMO_CONFIG) data.train.images=$(DEMO_DATA)/train data.train.tags=$(DEMO_DATA)/tags_train.json \
	  data.train.truth=$(DEMO_DATA)/instances_train.json data.test.images=$(DEMO_DATA)/test \
	  data.test.truth=$(DEMO_DATA)/instances_test.json out=$(DEMO_OUT) $(DEMO_ARGS)

demo-full:
	$(MAKE) demo DEMO_CONFIG=configs/demo.yaml SYNTH_ARGS="--train 200 --test 60 $(SCENES)" \
	  DEMO_DATA=data/demo_full DEMO_OUT=work_dirs/demo_full

test: dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slow" $(TEST_ARGS)

test-slow: dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist load -m slow $(TEST_ARGS)

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

dist: dev
	rm -rf $(DIST)
	$(BIN)/python -m build --outdir $(DIST) .

wheel: dist
	rm -rf $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$($(WHEEL_VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	$(WHEEL_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps $(DIST)/weaksam-*.whl

clean:
	rm -rf $(DEMO_DATA) $(DEMO_OUT) data/demo_full work_dirs/demo_full
