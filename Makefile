# Two commands matter on a fresh machine: `make up` runs the shop, `make test` proves it.
# Each builds what it needs in .venv; nothing is installed outside this folder.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up test storm check bench bench-history docs hooks format requirements clean

help:
	@echo "make up      start the shop on this machine: PostgreSQL, users on 8001, orders on 8002"
	@echo "make test    every test, against real PostgreSQL"
	@echo "make storm   strikes a running shop for as long as you like, and judges it: SEED=, CYCLES=, LOG=postgres"
	@echo "make check   formatting, lint, types, and who may import whom"
	@echo "make docs    the documentation site, in build/docs; a dead link fails"
	@echo "make hooks   runs the checks before each commit"
	@echo "make bench   the benchmarks; writes docs/benchmarks.md"
	@echo "make bench-history   the shop after five million events; writes docs/benchmarks-history.md"

# One install per requirements file; the stamp is newer than the file once it is done.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "eventshop needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 up"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "could not make .venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.local: requirements/local.txt pyproject.toml | $(BIN)/python
	@echo "installing what the shop needs into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/local.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.local
	@echo "installing what work on the shop needs into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.dev
	@echo "installing what the documentation site needs into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

# exec, so that Ctrl-C and signals reach the shop itself and not a shell in between.
# KAFKA=1 runs on a Kafka broker started here, KAFKA=host:port on one that is there.
up: $(VENV)/.local
	@exec $(BIN)/shop up $(if $(KAFKA),--kafka $(filter-out 1,$(KAFKA))) $(if $(COPY_LOG_FROM),--copy-log-from $(COPY_LOG_FROM))

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

# SEED=n has the same storm again.
storm: $(VENV)/.dev
	$(BIN)/python -m tests.storm $(if $(SEED),--seed $(SEED)) $(if $(CYCLES),--cycles $(CYCLES)) $(if $(LOG),--log $(LOG))

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m shop.platform.discovery

# A warning is an error: a dead link, a dead anchor, a page that no other one leads to.
docs: $(VENV)/.docs
	@rm -rf docs/reference
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --builder html docs build/docs
	@echo "the documentation is in build/docs/index.html"

hooks: $(VENV)/.dev
	$(BIN)/pre-commit install

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

bench-history: $(VENV)/.dev
	$(BIN)/python -m benchmarks history --rounds 5

# Pins every version with its hashes. Needs uv on the PATH.
UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make requirements"
requirements:
	$(UV_COMPILE) requirements/prod.in -o requirements/prod.txt
	$(UV_COMPILE) -c requirements/prod.txt requirements/local.in -o requirements/local.txt
	$(UV_COMPILE) -c requirements/local.txt requirements/build.in -o requirements/build.txt
	$(UV_COMPILE) -c requirements/local.txt requirements/dev.in -o requirements/dev.txt
	$(UV_COMPILE) -c requirements/dev.txt requirements/docs.in -o requirements/docs.txt

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
