# Every step of work on this project. CI runs these targets and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
CONFIG ?= configs/readmission_v1.yaml
MODEL ?= $(shell sed -n "s/^model: *//p" $(CONFIG))
PORT ?= 3000
SERVICE ?= service:Surety
export BENTOML_DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: setup serve train feature-pipeline validate promote import lint format typecheck test test-slow bench build monitor drift-check demo-rollout reliability docs lock clean help

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

setup: $(READY) ## Make .venv from the hashed lock

$(READY): requirements/dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

serve: $(READY) ## Serve the promoted model, with the monitor beside it; makes the example first where there is none
	$(BIN)/surety example --config $(CONFIG)
	$(BIN)/surety monitor --every 5s --model $(MODEL) & trap "kill $$!" EXIT INT TERM; \
	SURETY_MODEL_NAME=$(MODEL) $(BIN)/bentoml serve $(SERVICE) --port $(PORT)

monitor: $(READY) ## Watch the running service of MODEL
	$(BIN)/surety monitor --every 1m --model $(MODEL)

drift-check: $(READY) ## The live rows of MODEL against its reference
	$(BIN)/surety drift check --model $(MODEL) --config $(CONFIG)

demo-rollout: $(READY) ## Three minutes of load through every change and fault, with a live table
	$(BIN)/python -m benchmarks.demo_rollout

demo-lifecycle: $(READY) ## A model's whole life on real encounters: drift, alarms, retraining, recovery (six minutes)
	test -f data/diabetes130.parquet || $(BIN)/surety data fetch
	$(BIN)/python -m benchmarks.demo_lifecycle

feature-pipeline: $(READY) ## Raw rows of CONFIG into the feature store
	$(BIN)/surety features run --config $(CONFIG)

train: $(READY) ## Train and register a challenger for CONFIG
	$(BIN)/surety train --config $(CONFIG)

validate: $(READY) ## The pre-deployment gate on the challenger of MODEL
	$(BIN)/surety validate --model $(MODEL) --config $(CONFIG)

promote: $(READY) ## Challenger against champion of MODEL
	$(BIN)/surety promote --model $(MODEL) --config $(CONFIG)

import: $(READY) ## The champion of MODEL into the Bento store
	$(BIN)/surety import-model --model $(MODEL)

build: $(READY) ## A bento around the promoted model; SERVICE=service:SuretyIsolated for the isolated one
	mkdir -p build
	sed 's/^service: .*/service: "$(SERVICE)"/' bentofile.yaml > build/bentofile.yaml
	$(BIN)/bentoml build -f build/bentofile.yaml .

lint: $(READY) ## Ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Let ruff put things in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## mypy, strict
	$(BIN)/mypy

test: $(READY) lint typecheck ## Lint, types and the tests of every change (about ten minutes on two cores)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY) ## The statistical and fault suites
	$(BIN)/python -m pytest -m slow

reliability: $(READY) ## The fault suite, and docs/reliability.md from its figures
	$(BIN)/python -m pytest tests/faults
	$(BIN)/python -m tests.faults.document

bench: $(READY) ## Figures, as ratios in one run, with the machine beside them
	$(BIN)/python -m benchmarks.run

docs: $(READY) ## Rewrite the parts of docs/ that are made from the code
	$(BIN)/python -m scripts.docs_columns

lock: ## Rewrite the hashed locks (needs a package index)
	$(BIN)/uv pip compile pyproject.toml --extra dev $(LOCK) -o requirements/dev.lock
	$(BIN)/uv pip compile pyproject.toml --extra build -c requirements/dev.lock $(LOCK) -o requirements/build.lock
	$(BIN)/uv pip compile pyproject.toml -c requirements/dev.lock $(LOCK) -o requirements/serve.lock
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

clean: ## Remove what commands here have made (not .surety)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
