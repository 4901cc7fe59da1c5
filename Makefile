.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Packages are installed uncompiled, which saves a minute and a half; each is compiled, and that kept, when first imported.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup up down demo test test-servers test-long up-cluster down-cluster cluster-ready test-cluster check bench

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## .venv with everything, from constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

up: setup ## start the embedded stack: Airflow, MLflow, gateway
	@$(BIN)/airlock up

down: setup ## stop it
	@$(BIN)/airlock down

demo: setup ## three releases of cartpole: promoted, promoted, rolled back
	@$(BIN)/airlock demo

test: setup ## the whole test suite: two tests at a time, then alone those that need the live stack
	@$(BIN)/python -m pytest -m 'not stack and not servers and not long and not cluster' -n 2 --dist worksteal
	@$(BIN)/python -m pytest -m stack

test-servers: setup ## the tests that need Debian's servers (PostgreSQL, Prometheus, Alertmanager, Chromium), installed where they are missing (as root)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql; }
	@{ command -v prometheus && command -v promtool && command -v prometheus-alertmanager; } >/dev/null || \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
			prometheus prometheus-alertmanager; }
	@command -v chromium >/dev/null || \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev,scale]'
	@$(BIN)/python -m pytest -m servers

test-long: setup ## the tests that take many minutes for what few changes touch, the gateway's image built natively and learning on the live stack among them
	@$(BIN)/python -m pytest -m long

cluster-ready: setup
	@{ ls /usr/lib/postgresql/*/bin/initdb && command -v redis-server && command -v haproxy && command -v prometheus && \
		command -v prometheus-alertmanager && command -v wget && command -v curl; } >/dev/null 2>&1 || \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
			postgresql redis-server haproxy prometheus prometheus-alertmanager wget curl; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt \
		--editable '.[dev,scale,cluster]'

up-cluster: cluster-ready ## start the services of docker-compose.yml as processes of this machine (see docs/cluster.md)
	@$(BIN)/python -m tests.cluster.command up

down-cluster: setup ## stop them
	@$(BIN)/python -m tests.cluster.command down

test-cluster: cluster-ready ## the tests that need them; Debian's servers are installed where they are missing (as root)
	@$(BIN)/python -m pytest -m cluster tests/cluster

check: setup ## lint, format, types, import rules, declared dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry bentos tasks plugins dags deploy/launch

bench: setup ## measurements beside what one would use instead
	@$(BIN)/python benchmarks/inference.py
	@$(BIN)/python -m benchmarks.error_rates
	@$(BIN)/python -m benchmarks.serving --install --seconds 1 --rounds 3
