# Everything here works from a fresh clone: what is missing is installed, cached and reused.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PY := .cache/venv/bin/python
DEVCLUSTER := PYTHONPATH=tools $(PY) -m devcluster
# Extra arguments for pytest: make test ARGS='-k expiry'
ARGS ?=
# A cluster of your own instead of the local one: make demo KUBE_CONTEXT=name
KUBE_CONTEXT ?=

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## make .cache/venv with the pinned Python packages
	@tools/setup.sh

.PHONY: tools
tools: setup ## build or find the real parts: Kubernetes, etcd, Dolt, containerd, Terraform provider
	@$(DEVCLUSTER) build

.PHONY: demo
demo: setup ## watch the product do its main job on real parts (KUBE_CONTEXT=… plays on a cluster of yours)
	@$(PY) tools/demo $(if $(KUBE_CONTEXT),--context $(KUBE_CONTEXT))

.PHONY: up
up: setup ## leave a local cluster with Dolt and an operator running; prints how to use it (NODE=1: runs pods)
	@$(PY) tools/up $(if $(NODE),--node)

.PHONY: down
down: setup ## remove every trace of what `make up` left
	@$(DEVCLUSTER) down

.PHONY: test
test: setup tools ## run all tests on real parts (ARGS='-k word' for some)
	@$(PY) -m pytest $(ARGS)

.PHONY: test-unit
test-unit: setup ## run the tests that need nothing but Python
	@$(PY) -m pytest tests/unit $(ARGS)

.PHONY: faults
faults: setup tools ## show for long that Exclusive claims exclude, through faults of all kinds (SEED=7 MINUTES=12)
	@PYTHONPATH=tests:tools $(PY) -m faults $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

.PHONY: lint
lint: setup ## check style, formatting, layers and types
	@.cache/venv/bin/ruff check .
	@.cache/venv/bin/ruff format --check .
	@.cache/venv/bin/lint-imports
	@.cache/venv/bin/mypy

.PHONY: fmt
fmt: setup ## format the code
	@.cache/venv/bin/ruff check --fix-only -q .
	@.cache/venv/bin/ruff format .

.PHONY: docs
docs: setup ## regenerate the reference pages from the code
	@$(PY) tools/docs/generate.py
	@$(PY) tools/operations_reference.py
	@$(PY) -m presence.reference docs/cli.md

.PHONY: bench
bench: setup tools ## measure speed beside peers (ARGS='all --write-docs' brings docs/performance.md up to date)
	@PYTHONPATH=tests:tools $(PY) -m bench $(ARGS)

.PHONY: clean
clean: ## remove the clone's caches (the shared tool cache stays)
	@test ! -x $(PY) || $(DEVCLUSTER) down --all
	@rm -rf .cache
