# pyd: what a developer types. `make` alone lists the targets.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
SOURCES := $(shell find api client daemon storage -name '*.py')
PREFIX ?= /usr/local
UNITS ?= $(PREFIX)/lib/systemd/system
# What pydd and its runtime load (libseccomp, libnftables), run (tini for --init, ps for `top`) and start from.
NEEDED := python3-venv ca-certificates git libseccomp2 libnftables1 busybox-static tini iproute2 procps
# What the tests hold it against, or look at the kernel with.
TESTING := docker-registry skopeo umoci runc crun debootstrap nftables util-linux bsdutils curl openssl \
  apache2-utils xz-utils zstd e2fsprogs systemd openssh-client dropbear-bin

.PHONY: help setup tools demo stop test unit system lint bench nightly openapi compat proto lock install \
  uninstall

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) $(COMPILED) ## Install what is missing: system packages, .venv, the commands pyd, pydd, pyd-oci

$(STAMP): requirements.lock pyproject.toml .ci/packages
	@./.ci/packages $(NEEDED)
	@/usr/bin/python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"pyd needs Python 3.11; {sys.executable} is older")'
	@test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PYTHON) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@ln -sf ../../daemon/runtime/pyd-oci ../../systemd/pyd-supervisor $(VENV)/bin/
	@touch $@

# Byte code beside the sources whatever PYTHONDONTWRITEBYTECODE says: pyd-oci pays for every import at every start.
$(COMPILED): $(STAMP) $(SOURCES)
	@$(PYTHON) -m compileall -q api client daemon storage
	@touch $@

tools: setup
	@./.ci/packages $(TESTING)
	@./.ci/docker-client $(VENV)/bin/docker

demo: setup ## Start pydd, get an image, run a container from it and look around
	@./docs/demo

stop: ## Undo everything that `make demo` did: containers, daemon, its files
	@./docs/demo stop

test: tools lint ## Everything that must pass: ruff, mypy --strict, all tests
	# Two processes, a file's tests in one: much of a test is waiting. What fails is run once more by itself:
	# a busy machine's timing passes then, a fault fails again.
	$(PYTHON) -m pytest -m "not nightly" -n 2 --dist loadfile || \
	  $(PYTHON) -m pytest -m "not nightly" --last-failed --last-failed-no-failures none

unit: setup ## Parsing and pure logic only
	$(PYTHON) -m pytest tests/unit

system: tools ## Real kernel, real clients, real registry
	$(PYTHON) -m pytest tests/system

lint: setup ## ruff and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: tools ## Speed and memory, as ratios to a dockerd in the same run (DOCKERD=unix:///PATH names it)
	$(PYTHON) -m benchmarks $(ARGS)

nightly: tools ## Minutes of fuzzing and chaos
	$(PYTHON) -m pytest -m nightly

openapi: setup ## Write openapi.yaml from the application
	$(PYTHON) -m api.openapi > openapi.yaml

compat: setup ## Write the generated tables of docs/compatibility.md
	$(PYTHON) docs/compatibility.py --write

proto: setup ## Write the modules of BuildKit's messages from daemon/build/proto/*.proto
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. daemon/build/proto/*.proto

lock: setup ## Renew requirements.lock (all) and requirements-run.lock (what `make install` needs)
	$(VENV)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --extra dev --strip-extras \
	  --no-emit-index-url --no-emit-find-links --upgrade -o requirements.lock pyproject.toml
	$(VENV)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras -c requirements.lock \
	  --no-emit-index-url --no-emit-find-links -o requirements-run.lock pyproject.toml

install: ## Install for all users: PREFIX (/usr/local), systemd's units beside it
	@./.ci/packages $(NEEDED)
	@./systemd/install $(PREFIX) $(UNITS)

uninstall: ## Undo `make install`; containers and data stay (docs/operations.md says how they go)
	@./systemd/install --remove $(PREFIX) $(UNITS)
