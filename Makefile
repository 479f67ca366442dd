# On a new machine, start with two commands: `make up` runs the shop, and `make test` tests it.
# Each installs what it needs in .venv. Nothing is installed outside this folder.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up dev test test-fast storm check bench bench-history compose contracts docs coverage clients browser screenshots hooks format migration requirements clean ci-tools vulnerabilities sbom

help:
	@echo "make up      start the shop on this machine: PostgreSQL, users on 8001, orders on 8002, the console on 8000"
	@echo "make dev     make up, and a restart of the processes whose code you edit, at every save"
	@echo "make test    the tests, against real PostgreSQL; HEAVY=true adds the heavy ones"
	@echo "make test-fast   those that take seconds, without Kafka and the chaos test: for use while you edit"
	@echo "make storm   the chaos test: faults in a running shop, and then a check of all data: SEED=, CYCLES=, LOG=postgres or cdc"
	@echo "make check   formatting, lint, types, and import rules"
	@echo "make docs    the documentation site, in build/docs; a dead link fails"
	@echo "make coverage   the share of the code that the tests run; a report in htmlcov"
	@echo "make clients   installs the generators of OpenAPI clients, for their tests"
	@echo "make browser   installs the accessibility checker that the tests of the console use"
	@echo "make screenshots   pictures of each page of the console, in docs/console; needs Chromium"
	@echo "make vulnerabilities   known ones in what is installed; needs the network"
	@echo "make sbom    what is in the image, as CycloneDX, in build/sbom.json"
	@echo "make hooks   runs the checks before each commit"
	@echo "make migration   writes a migration from the changes in tables.py: SERVICE=, NAME="
	@echo "make compose   writes the Compose files and the gateway's for the services there are"
	@echo "make contracts   records new events and writes their documents; refuses a change with which old events can't be read"
	@echo "make bench   the benchmarks; writes docs/benchmarks.md"
	@echo "make bench-history   the shop after five million events, and their restore; writes docs/benchmarks-history.md"

# Variables that would load other Python code are removed. If root runs make in another user's folder, Python
# writes no caches, because they would belong to root.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH
NO_CACHES := $(shell [ "$$(id -u)" != 0 ] || find . -prune ! -user root)
export PYTHONDONTWRITEBYTECODE ?= $(NO_CACHES)

# installed-local, installed-dev, installed-docs: create or update .venv with the packages of that list.
installed-%:
	@$(PYTHON) -I requirements/venv.py $*

# exec, so that Ctrl-C and signals reach the shop itself and not a shell in between. KAFKA=1 starts a Kafka broker
# here; KAFKA=host:port uses an existing one. CDC=1 lets Debezium feed it. GATEWAY=1 puts nginx in front. AUTH=1 requires access tokens.
# 0, no and false leave one out.
on = $(filter-out 0 no false,$(1))
UP_OPTIONS = $(if $(call on,$(KAFKA)),--kafka $(patsubst 1,local,$(KAFKA))) $(if $(call on,$(CDC)),--cdc) $(if $(COPY_LOG_FROM),--copy-log-from $(COPY_LOG_FROM)) $(if $(call on,$(GATEWAY)),--gateway) $(if $(call on,$(AUTH)),--auth)
up: installed-local
	@exec $(BIN)/shop up $(UP_OPTIONS)

# The same, with a restart of processes whose code was edited.
dev: installed-local
	@exec $(BIN)/shop up --reload $(UP_OPTIONS)

# A crashed process ends the run with an error. One that took its place would wait for ever (pytest-xdist 3.8).
PYTEST = $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# HEAVY=true runs the heavy tests too, as CI does: two at a time, because each starts many processes. Those that are
# marked `alone` compare seconds with a promise, so nothing runs beside them.
ALL := $(filter true,$(HEAVY) $(CI))
# The tests start hundreds of processes. Without caches each would compile the code again, so an environment that
# forbids caches is not heeded.
test test-fast: export PYTHONDONTWRITEBYTECODE := $(NO_CACHES)

test: installed-dev
	$(PYTEST) $(if $(ALL),--numprocesses 2 -m "not alone",-m "not heavy")
	$(if $(ALL),$(BIN)/python -m pytest -m alone)

test-fast: installed-dev
	$(PYTEST) --numprocesses 3 -m "not kafka and not heavy and not slow"

# SEED=n repeats a storm.
storm: installed-dev
	$(BIN)/python -m tests.storm $(if $(SEED),--seed $(SEED)) $(if $(CYCLES),--cycles $(CYCLES)) $(if $(LOG),--log $(LOG))

check: installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m shop.platform.discovery
	$(BIN)/python -m devstack.contracts --check

# A warning is an error: a dead link, a dead anchor, or a page without a link to it.
docs: installed-docs
	@rm -rf docs/reference
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --jobs auto --builder html docs build/docs
	@echo "the documentation is in build/docs/index.html"

# The share of the code that the tests run, including the shop's processes. There is no required value. Coverage
# makes tests slower, so tests that depend on time are left out. Only `make test` decides whether the tests pass.
COVERED = tests --ignore tests/storm --ignore tests/deploy --ignore tests/e2e/test_crashes.py -m "not kafka"
coverage: installed-dev
	@$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(or $(TESTS),$(COVERED))
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report

# The generators that tests/clients uses, in build/clients. Without them those tests are skipped.
clients: build/clients/python/made build/clients/node_modules/made

build/clients/python/made: requirements/clients.txt
	$(PYTHON) -m venv --clear build/clients/python
	build/clients/python/bin/pip install --quiet --require-hashes --requirement $<
	@touch $@

build/clients/node_modules/made: tests/clients/package.json tests/clients/package-lock.json
	@mkdir -p build/clients && cp $^ build/clients
	npm ci --prefix build/clients --no-audit --no-fund
	@touch $@

# What the tests of the console look for mistakes of accessibility with, in build/browser. Without it that test is
# skipped.
browser: build/browser/node_modules/made

build/browser/node_modules/made: tests/browser/package.json tests/browser/package-lock.json
	@mkdir -p build/browser && cp $^ build/browser
	npm ci --prefix build/browser --no-audit --no-fund
	@touch $@

# Pictures of each page of the console, light and dark, in docs/console. Needs Chromium.
screenshots: installed-dev
	$(BIN)/python -m tests.browser

# What CI checks with besides: a secret store, Kubernetes' schemas, known vulnerabilities. In build/ci.
ci-tools: build/ci/made

build/ci/made: requirements/ci.txt
	$(PYTHON) -m venv --clear build/ci
	build/ci/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# Known vulnerabilities in what production and development install. Each that is accepted is in .ci/accepted, with why.
vulnerabilities: build/ci/made
	@mkdir -p build
	.ci/vulnerabilities

# What is in the image, as CycloneDX, in build/sbom.json.
sbom: build/ci/made
	@mkdir -p build
	build/ci/bin/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --output-file build/sbom.json requirements/prod.txt
	@echo "build/sbom.json lists what the image is made of"

hooks: installed-dev
	$(BIN)/pre-commit install

# Run it after adding a service, and after changing the templates in deploy.
compose: installed-local
	$(BIN)/python -m devstack.compose

# After a new event, and after a change of one.
contracts: installed-local
	$(BIN)/python -m devstack.contracts

format: installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# SERVICE=orders NAME=note writes a new migration from the changes in the service's tables.py.
migration: installed-dev
	@$(BIN)/python -m devstack.migration "$(SERVICE)" "$(NAME)"

bench: installed-dev
	$(BIN)/python -m benchmarks

bench-history: installed-dev
	$(BIN)/python -m benchmarks history restore-sizes --rounds 5

# Pins every version with its hashes. Needs uv on the PATH.
UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make requirements"
requirements:
	$(UV_COMPILE) requirements/prod.in -o requirements/prod.txt
	$(UV_COMPILE) -c requirements/prod.txt requirements/local.in -o requirements/local.txt
	$(UV_COMPILE) -c requirements/local.txt requirements/build.in -o requirements/build.txt
	$(UV_COMPILE) -c requirements/local.txt requirements/dev.in -o requirements/dev.txt
	$(UV_COMPILE) -c requirements/dev.txt requirements/docs.in -o requirements/docs.txt
	$(UV_COMPILE) requirements/clients.in -o requirements/clients.txt
	$(UV_COMPILE) requirements/ci.in -o requirements/ci.txt

clean:
	rm -rf $(VENV) build docs/reference htmlcov .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
