# Front doors of the project. Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help bootstrap demo demo-down test test-long bench lint format unit render sanity engine molecule docs docs-check dist lock clean

PYTHON := .venv/bin/python
TOOLCHAIN = python3 tools/bootstrap.py packages venv collections
STAGES = $(PYTHON) tools/check.py

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bootstrap: ## Debian packages, toolchain, collections, Docker engine: whatever is missing
	@python3 tools/bootstrap.py

demo: ## the whole stack on a throwaway host of this machine, ending with a streamed chat completion
	@python3 tools/bootstrap.py
	@$(PYTHON) tools/demo.py up

demo-down: ## remove the demo with everything it made
	@if [ -x $(PYTHON) ]; then $(PYTHON) tools/demo.py down; else echo "nothing to remove: no demo was started here"; fi

test: ## all checks: lint, sanity, unit, render, engine tests, molecule
	@python3 tools/bootstrap.py packages venv collections services engine
	@$(STAGES) all

test-long: ## proofs that take longer than `make test` should
	@python3 tools/bootstrap.py packages venv collections peers services engine browser
	@$(STAGES) long

bench: ## the figures of the README, measured
	@python3 tools/bootstrap.py packages venv collections services peers bench engine
	@$(PYTHON) tools/bench.py

lint: ## formatting, lint, types, generated files
	@$(TOOLCHAIN) services
	@$(STAGES) lint

format: ## rewrite Python files the way lint wants them
	@$(TOOLCHAIN)
	@.venv/bin/ruff check --fix-only --quiet . && .venv/bin/ruff format --quiet .

unit: ## unit tests of the collection, the tools and the services
	@$(TOOLCHAIN) services
	@$(STAGES) unit

render: ## templates rendered by Ansible's own templar, held against policy
	@$(TOOLCHAIN) services
	@$(STAGES) render

sanity: ## ansible-test sanity on a copy of the tree
	@$(TOOLCHAIN)
	@$(STAGES) sanity

engine: ## tests that need the Docker engine of this machine
	@python3 tools/bootstrap.py
	@$(STAGES) engine

molecule: ## the molecule scenarios
	@python3 tools/bootstrap.py packages venv collections services engine
	@$(STAGES) molecule

docs: ## generate what follows from the roles' argument specs, from the tables of checks and from the services' own APIs
	@$(TOOLCHAIN) services
	@$(PYTHON) tools/gen_role_docs.py
	@$(PYTHON) tools/gen_check_docs.py
	@.cache/venv-services/bin/python tools/gen_api_docs.py

dist: ## the collection's tarball and those of its dependencies, below build/
	@$(TOOLCHAIN)
	@mkdir -p build && cp .cache/vendor/*.tar.gz build/
	@.venv/bin/ansible-galaxy collection build --force --output-path build

lock: ## pin the newest toolchain that tools/requirements/*.in allow
	@$(TOOLCHAIN)
	@$(PYTHON) tools/lock.py

clean: ## remove caches, the toolchain and every test host of this checkout
	@if [ -x $(PYTHON) ]; then $(PYTHON) tools/clean.py; fi
	@rm -rf .cache .venv .ansible build tests/output
