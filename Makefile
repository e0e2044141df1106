# Every task of this project; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Where this is set, each start of a program or of `pulumi` compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# The lock is complete; without --no-deps, pip 23 looks for later releases of extras, which it refuses.
$(STAMP): requirements.lock
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(VENV)/bin/pip check
	@ln -sfn ../../cli/gridhub $(VENV)/bin/gridhub
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Make the virtual environment in .venv from the hash-checked lock, with `gridhub` in it

.PHONY: lint
lint: $(STAMP) ## ruff (rules and format) and strict types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy . .github/stacks.py

.PHONY: test
test: $(STAMP) ## Run every test, in random order (starts a private Docker Engine where none answers)
	GRIDHUB_TEST_ENGINE=1 $(PY) -m pytest -n 3 --durations 10

.PHONY: test-fast
test-fast: $(STAMP) ## Run what needs no Docker Engine, in random order, in a few minutes
	$(PY) -m pytest -n 3 --durations 10 -m "not docker and not soak" \
		tests/agent tests/cli tests/fuzz tests/gate tests/golden/test_zdb.py tests/hub_tools \
		tests/program tests/providers

.PHONY: soak
soak: $(STAMP) ## Run the long forms: hundreds of kills and faults (an hour)
	GRIDHUB_TEST_ENGINE=1 $(PY) -m pytest -m soak

.PHONY: fuzz
fuzz: $(STAMP) ## Fuzz all that reads outside data, 10 minutes each (MINUTES=1 for less)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/fuzz/requirements.lock
	@$(PY) -m tests.fuzz --minutes $(or $(MINUTES),10)

.PHONY: bench
bench: $(STAMP) ## Measure against upstream's algorithms and the limits; build/bench/results.json
	$(PY) -m tests.bench

.PHONY: bench-small
bench-small: $(STAMP) ## The same in seconds, without bars, so that it cannot rot
	$(PY) -m tests.bench --small

.PHONY: bench-memory
bench-memory: $(STAMP) ## Show what the memory of each job holds, in containers; build/bench/memory.json
	$(PY) -m tests.bench.memory

.PHONY: sandbox
sandbox: $(STAMP) ## Bring up a whole mirror here: master, Docker, stack; watch it sync
	@$(PY) -m tests.sandbox up

.PHONY: sandbox-status
sandbox-status: $(STAMP) ## Tell where the sandbox stands
	@$(PY) -m tests.sandbox status

.PHONY: sandbox-boot
sandbox-boot: $(STAMP) ## Live from the sandbox's mirror as a node does, over IPv4 and IPv6
	@$(PY) -m tests.sandbox boot

.PHONY: sandbox-change
sandbox-change: $(STAMP) ## Give the sandbox's master a new flist and a new kernel
	@$(PY) -m tests.sandbox change

.PHONY: sandbox-down
sandbox-down: $(STAMP) ## Remove everything that the sandbox made, and nothing else
	@$(PY) -m tests.sandbox down
