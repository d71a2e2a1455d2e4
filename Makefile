# pyd: what a developer types. `make` alone lists the targets.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NEEDED := python3-venv libseccomp2 libnftables1 busybox-static tini iproute2 procps
TESTING := docker-registry skopeo umoci runc crun debootstrap nftables util-linux curl

.PHONY: help setup demo stop test unit system lint bench nightly openapi lock

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install what is missing: system packages, .venv, the commands pyd, pydd, pyd-oci

$(STAMP): requirements.lock pyproject.toml
	@./.ci/packages $(NEEDED)
	@test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m compileall -q api client daemon storage
	@touch $@

demo: setup ## Start pydd, get an image, run a container from it and look around
	@./docs/demo

stop: ## Undo everything that `make demo` did: containers, daemon, its files
	@./docs/demo stop

test: setup lint ## Everything that must pass: ruff, mypy --strict, all tests
	@./.ci/packages $(TESTING)
	$(PYTHON) -m pytest -m "not nightly"

unit: setup ## Parsing and pure logic only
	$(PYTHON) -m pytest tests/unit

system: setup ## Real kernel, real clients, real registry
	@./.ci/packages $(TESTING)
	$(PYTHON) -m pytest tests/system

lint: setup ## ruff and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup ## Ratios against a dockerd measured in the same run (DOCKERD=unix://... names it)
	$(PYTHON) -m benchmarks

nightly: setup ## Minutes of fuzzing and chaos
	$(PYTHON) -m pytest -m nightly

openapi: setup ## Write openapi.yaml from the application
	$(PYTHON) -m api.openapi > openapi.yaml

lock: ## Renew requirements.lock
	$(VENV)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --extra dev --strip-extras \
	  --no-emit-index-url --no-emit-find-links --upgrade -o requirements.lock pyproject.toml
