# Every step of work on this project. CI runs these targets and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
CONFIG ?= configs/readmission_v1.yaml
MODEL ?= $(shell sed -n "s/^model: *//p" $(CONFIG))
PORT ?= 3000
SERVICE ?= service:Surety
MINUTES ?= 20
ALIAS ?= challenger
EXTRAS ?=
export BENTOML_DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
# Every command of a test would compile all modules anew, and pytest rewrite every assertion.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup repro data-pull data-check schema test-only test-lowest ct container-check push system-packages example serve train feature-pipeline validate promote import lint format typecheck test test-slow bench house quick quick-1 quick-2 quick-3 test-rooms test-rooms-1 test-rooms-2 test-rooms-3 test-processes test-cluster build containerize container-test monitor drift-check demo-rollout demo-lifecycle demo-cluster reliability soak security oracles floors docs docs-check lock clean help

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

setup: $(READY) ## Make .venv from the hashed lock; pull the raw data where a DVC remote is set
	@test -z "$$($(BIN)/dvc remote list 2> /dev/null)" || $(MAKE) --no-print-directory data-pull

data-pull: $(READY) ## The files that dvc.lock names, from the DVC remote, checked one by one
	$(BIN)/dvc pull
	$(BIN)/python -m scripts.data_check

data-check: $(READY) ## Are the files of dvc.lock byte for byte what it names
	$(BIN)/python -m scripts.data_check

repro: $(READY) ## Raw data to gate report by dvc.yaml; only what has changed runs again
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro

$(READY): requirements/dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

example: $(READY) ## The road from data to a promoted model of CONFIG, as far as it is missing
	$(BIN)/surety example --config $(CONFIG)

serve: $(READY) ## Serve the promoted model, with the monitor beside it; makes the example first where there is none
	$(BIN)/surety example --config $(CONFIG)
	@$(BIN)/surety monitor --every 5s --model $(MODEL) & monitor=$$!; \
	SURETY_MODEL_NAME=$(MODEL) $(BIN)/bentoml serve $(SERVICE) --port $(PORT) & server=$$!; \
	trap 'kill $$server $$monitor 2> /dev/null' INT TERM HUP; \
	while kill -0 $$server 2> /dev/null; do wait $$server; status=$$?; done; \
	kill $$monitor 2> /dev/null; wait $$monitor; exit $$status

monitor: $(READY) ## Watch the running service of MODEL
	$(BIN)/surety monitor --every 5s --model $(MODEL)

drift-check: $(READY) ## The live rows of MODEL against its reference
	$(BIN)/surety drift check --model $(MODEL) --config $(CONFIG)

demo-rollout: $(READY) ## Three minutes of load through every change and fault, with a live table
	$(BIN)/python -m benchmarks.demo_rollout

demo-cluster: $(READY) ## One service on three machines, live: import, canary, a cut, a death, rollback (two minutes, as root)
	$(BIN)/python -m benchmarks.demo_cluster

demo-lifecycle: $(READY) ## A model's whole life on real encounters: drift, alarms, retraining, recovery (six minutes)
	test -f data/diabetes130.parquet || $(BIN)/surety data fetch
	$(BIN)/python -m benchmarks.demo_lifecycle --order $(or $(ORDER),shuffled) --day $(or $(DAY),0.5)

feature-pipeline: $(READY) ## Raw rows of CONFIG into the feature store
	$(BIN)/surety features run --config $(CONFIG)

train: $(READY) ## Train and register a challenger for CONFIG
	$(BIN)/surety train --config $(CONFIG)

validate: $(READY) ## The pre-deployment gate on the challenger of MODEL, or on ALIAS=champion
	$(BIN)/surety validate --model $(MODEL) --config $(CONFIG) --alias $(ALIAS)

promote: $(READY) ## Challenger against champion of MODEL
	$(BIN)/surety promote --model $(MODEL) --config $(CONFIG)

import: $(READY) ## The champion of MODEL into the Bento store
	$(BIN)/surety import-model --model $(MODEL)

build: $(READY) ## A bento around the promoted model; SERVICE=service:SuretyIsolated for the isolated one, EXTRAS=cluster for many machines
	mkdir -p build
	cat requirements/serve.lock $(EXTRAS:%=requirements/%.lock) > build/serve.lock
	sed -e 's/^service: .*/service: "$(SERVICE)"/' -e 's#requirements_txt: .*#requirements_txt: "build/serve.lock"#' bentofile.yaml > build/bentofile.yaml
	$(BIN)/bentoml build -f build/bentofile.yaml .

containerize: $(READY) ## The image of a bento (BENTO=surety:latest), hardened; docker, else buildah
	deploy/container/containerize.sh $(BENTO)

container-test: $(READY) ## Build the image and try it: rights, figures, kills, a stop under load (exit status 77: cannot)
	deploy/container/test.sh

container-check: $(READY) ## What container-test tries, on the image that containerize has made
	CONTAINER_ENGINE="$${CONTAINER_ENGINE:-docker}" SURETY_MODEL_NAME=$(MODEL) $(BIN)/python -m tests.container.check "$$(BENTOML=$(BIN)/bentoml deploy/container/image.sh $(BENTO))"

push: ## That image to REGISTRY under the name IMAGE; the login is REGISTRY_USER and REGISTRY_TOKEN
	@BENTOML=$(BIN)/bentoml deploy/container/push.sh $(BENTO)

lint: $(READY) ## Ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Let ruff put things in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## mypy, strict
	$(BIN)/mypy

# Two jobs at a time: one for each core of a small machine. The rooms need the processor, the processes mostly wait.
JOBS ?= 2
IN_TURNS = $(MAKE) --no-print-directory --keep-going --jobs=$(JOBS) $(if $(filter output-sync,$(.FEATURES)),--output-sync=line)
PROCESSES := tests/e2e tests/security tests/faults tests/benchmarks tests/deploy tests/test_dvc.py tests/test_workflows.py
ROOMS_1 := tests/base tests/features tests/serve tests/scripts tests/test_chance.py tests/test_import_rule.py tests/test_concepts.py tests/test_general_words.py tests/test_docs.py tests/test_figures.py tests/test_schemas.py
ROOMS_2 := tests/cli tests/lab/data tests/lab/drift tests/lab/log_care tests/lab/past_answers
ROOMS_3 := $(filter-out $(ROOMS_2),$(wildcard tests/lab/[a-z]*))
PYTEST := $(BIN)/python -m pytest

# All three at once, also on two cores: the first mostly waits for clocks and disks.
quick: $(READY) ## What to run while working: the rooms, without servers and without what takes half a second or more
	+@$(IN_TURNS) --jobs=3 quick-1 quick-2 quick-3

quick-1 quick-2 quick-3: quick-%: # a third of quick each
	$(PYTEST) -q -m "not slow and not e2e and not long" $(ROOMS_$*)

test: $(READY) ## Lint, types and the tests of every change (twenty minutes on two cores; JOBS=1: one after the other)
	+@$(IN_TURNS) test-processes lint typecheck test-rooms-3 test-rooms-2 test-rooms-1
	+@$(MAKE) --no-print-directory test-cluster

test-only: $(READY) ## The tests of every change, without lint and types
	+@$(IN_TURNS) test-processes test-rooms-3 test-rooms-2 test-rooms-1
	+@$(MAKE) --no-print-directory test-cluster

test-rooms: test-rooms-1 test-rooms-2 test-rooms-3 ## The half of the tests that runs without processes of its own

test-rooms-1 test-rooms-2 test-rooms-3: test-rooms-%: $(READY) # a third of it each
	$(PYTEST) -m "not slow" $(ROOMS_$*)

test-processes: $(READY) ## The half of the tests that starts processes
	$(PYTEST) -m "not slow" $(PROCESSES)

# Alone, since six workers, a database and a balancer are all a small machine can do; a fault that met the machine's own
# limits is tried once more, and both runs are told.
test-cluster: $(READY) ## Faults of one service on three machines, which are network namespaces and need root; skipped without
	for again in "" --last-failed; do \
	  $(if $(CI),$(if $(SUDO),$(SUDO) -E env PATH="$$PATH")) $(PYTEST) -m "not slow" tests/cluster $$again && exit 0; done; exit 1

schema: $(READY) ## Configurations, the data at hand and the OpenAPI document against their schemas
	$(BIN)/python -m pytest tests/test_schemas.py

# tests/security/test_locks.py holds the environment against the lock, which this one is not made from.
LOWEST := .venv-lowest
test-lowest: $(READY) ## The tests of every change on the oldest packages that pyproject.toml allows (needs a package index)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	mkdir -p build
	$(BIN)/uv pip compile pyproject.toml --extra dev --resolution lowest-direct --python $(LOWEST)/bin/python --quiet --no-header -o build/lowest.txt
	$(BIN)/uv pip sync --quiet --python $(LOWEST)/bin/python build/lowest.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --no-build-isolation --editable .
	+@$(IN_TURNS) test-processes test-rooms-3 test-rooms-2 test-rooms-1 PYTEST="$(LOWEST)/bin/python -m pytest --ignore tests/security/test_locks.py"

test-slow: $(READY) ## The statistical and fault suites
	$(BIN)/python -m pytest -m slow --hypothesis-profile=explore

reliability: $(READY) ## The fault suites of one machine and of three, and docs/reliability.md from their figures
	$(BIN)/python -m pytest -m slow tests/faults tests/cluster
	$(BIN)/python -m tests.faults.document

# On a real home only where one is named: anything else would train the example into it.
ct: $(READY) ## Drift check, retraining where it is advised (FORCE_RETRAIN=true: anyhow), gate; the example unless SURETY_HOME is set
	$(BIN)/$(if $(strip $(SURETY_HOME)),surety retrain --unattended --config $(CONFIG),python -m benchmarks.ct_example)

soak: $(READY) ## MINUTES (20) at half of the capacity with the circuit flapping; exit 1 when something grows
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

security: $(READY) ## The security tests, and docs/security-figures.md from what they found
	$(BIN)/python -m pytest tests/security
	$(BIN)/python -m tests.security.document

oracles: $(READY) ## Other people's tools that tests hold ours against, in folders of build/; slow tests make a few more
	$(BIN)/python -m tests.oracles

floors: $(READY) ## The locks against requirements/floors.toml: no known hole, every file by hash, no index named
	$(BIN)/python -m tests.security.floors

bench: $(READY) ## Figures, as ratios in one run, with the machine beside them
	$(BIN)/python -m benchmarks.run

house: $(READY) ## How many files a request, a label and a model pass, and how many names the code has (ARGS=--details lists them)
	$(BIN)/python -m benchmarks.house $(ARGS)

docs: $(READY) ## Rewrite the parts of docs/ that are made from the code
	$(BIN)/python -m scripts.docs

docs-check: $(READY) ## Are those parts current; then the site of docs/ into build/site, strictly
	$(BIN)/python -m scripts.docs --check
	$(BIN)/mkdocs build --strict

DEBIAN := prometheus haproxy postgresql iproute2
system-packages: ## Debian's packages that tests ask for, as root or by sudo
	dpkg -s $(DEBIAN) > /dev/null 2>&1 || { $(SUDO) apt-get update -qq && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN); }
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo)

lock: ## Rewrite the hashed locks (needs a package index)
	$(BIN)/uv pip compile pyproject.toml --extra dev $(LOCK) -o requirements/dev.lock
	$(BIN)/uv pip compile pyproject.toml --extra build -c requirements/dev.lock $(LOCK) -o requirements/build.lock
	$(BIN)/uv pip compile pyproject.toml -c requirements/dev.lock $(LOCK) -o requirements/serve.lock
	$(BIN)/uv pip compile requirements/oracles.in $(LOCK) -o requirements/oracles.lock
	$(BIN)/uv pip compile requirements/deploy.in --override requirements/deploy-without.txt $(LOCK) -o requirements/deploy.lock
	$(BIN)/uv pip compile requirements/learners.in -c requirements/dev.lock $(LOCK) -o requirements/learners.lock
	$(BIN)/uv pip compile requirements/wandb.in -c requirements/dev.lock $(LOCK) -o requirements/wandb.lock
	$(BIN)/uv pip compile requirements/nannyml.in $(LOCK) -o requirements/nannyml.lock
	$(BIN)/uv pip compile requirements/triton.in $(LOCK) -o requirements/triton.lock
	$(BIN)/uv pip compile requirements/kserve.in $(LOCK) -o requirements/kserve.lock
	$(BIN)/uv pip compile requirements/mlserver.in $(LOCK) -o requirements/mlserver.lock
	$(BIN)/uv pip compile requirements/cluster.in -c requirements/dev.lock $(LOCK) -o requirements/cluster.lock
	$(BIN)/uv pip compile requirements/cluster-server.in $(LOCK) -o requirements/cluster-server.lock
	$(BIN)/uv pip compile requirements/dask.in -c requirements/dev.lock $(LOCK) -o requirements/dask.lock
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

clean: ## Remove what commands here have made (not .surety)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
