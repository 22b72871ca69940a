# pyk: `make up` starts a cluster on this machine, `make test` runs every check. Both set up what they need.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: up down test check unit e2e lab-test bench lock clean

up: need-root $(VENV)/.installed
	@$(BIN)/pyk up --detach
	@if $(BIN)/pyk get deployment/hello >/dev/null 2>&1; then $(BIN)/pyk rollout status deployment/hello; \
	    else $(BIN)/pyk apply -f manifests/app.yaml --wait; fi
	@$(BIN)/pyk up --hints

down: need-root
	@if [ -x $(BIN)/pyk ]; then $(BIN)/pyk down; else echo "nothing to take down: pyk is not set up here"; fi

test: need-root $(VENV)/.installed-dev
	@tests/debian-packages
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 2 -m "not e2e" tests
	$(BIN)/pytest -m e2e tests
	$(BIN)/python -m tests.lab

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 tests/unit tests/scenarios

e2e: need-root $(VENV)/.installed-dev
	$(BIN)/pytest -m e2e tests

# Real machines under qemu; CHECKS=--full for those too that take long.
lab-test: need-root $(VENV)/.installed-dev
	@tests/debian-packages
	$(BIN)/python -m tests.lab $(CHECKS)

bench: need-root $(VENV)/.installed-dev
	@tests/debian-packages
	@$(BIN)/python -m benchmarks

lock: $(VENV)/.installed-dev
	$(BIN)/pip-compile -q --upgrade --extra dev --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --strip-extras --no-annotate --no-header -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: need-root
need-root:
	@if [ "$$(id -u)" != 0 ]; then echo "pyk makes namespaces and cgroups, so this needs root: run it with sudo" >&2; exit 1; fi

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "installing Debian's python3-venv ..."; \
	    apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml requirements.lock
	@echo "installing pyk into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/pip pyproject.toml requirements.lock
	@echo "installing pyk and its test tools into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@ $(VENV)/.installed
