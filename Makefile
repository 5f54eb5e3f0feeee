# Every command of the project. CI runs the same targets as a laptop does; `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Debian keeps database servers in sbin, which is not on an ordinary user's path.
export PATH := $(PATH):/usr/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet
CODE := $(wildcard src tests bench deploy examples)

# Stamps: pip runs only when what it would install has changed, so that a second start costs nothing.
RUN_INSTALLED := .venv/.run-installed
DEV_INSTALLED := .venv/.dev-installed
BENCH_INSTALLED := .venv/.bench-installed

##@ Everyday

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(RUN_INSTALLED) ## Start the whole platform; EWALLET_* variables configure it, Ctrl-C stops it
	@exec tools/foreground $(BIN)/ewallet up

.PHONY: demo
demo: $(RUN_INSTALLED) ## Walk through a payment against the running platform
	@$(BIN)/ewallet demo

.PHONY: demo-notifications
demo-notifications: $(DEV_INSTALLED) ## Watch who is told of payments, by inbox, e-mail and webhook
	@$(BIN)/python examples/notifications_demo.py

.PHONY: apart
apart: $(DEV_INSTALLED) mariadb haproxy ## Start two processes of each service on a private MariaDB, behind HAProxy
	@exec tools/foreground $(BIN)/python -m bench.apart

.PHONY: galera
galera: $(DEV_INSTALLED) mariadb mariabackup haproxy ## The same on a cluster of three MariaDB nodes, which may be killed one at a time
	@exec tools/foreground $(BIN)/python -m bench.apart --galera

# A test often waits for processes, leases or disks: five workers keep two cores busy. In the order of the
# folders: the long ones of chaos, which come early, are not left for the end.
IN_PARALLEL := --numprocesses $(shell echo $$(($$(nproc) * 5 / 2))) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(DEV_INSTALLED) mariadb mariabackup haproxy systemd curl compiler promtool wrk ## Run every check and every test, with coverage
	@$(MAKE) --no-print-directory --jobs 2 check tests
	@$(BIN)/python -m bench.guard

.PHONY: tests
tests:
	$(BIN)/python -m pytest --cov $(IN_PARALLEL)

# make bench-growth WRITE=1 SIZES=1000:10000,20000:100000
.PHONY: bench-growth
bench-growth: $(BENCH_INSTALLED) ## Measure what things cost with millions of transfers in place; WRITE=1 writes docs/growth.md
	@$(BIN)/python -m bench.growth $(if $(SIZES),--sizes $(SIZES)) $(if $(WRITE),--write)

# make guard RECORD=1
.PHONY: guard
guard: $(DEV_INSTALLED) wrk ## Fail if a payment has become slower; RECORD=1 writes down how fast it is
	@$(BIN)/python -m bench.guard $(if $(RECORD),--record)

# make bench WRITE=1 SECONDS_EACH=20
.PHONY: bench
bench: $(BENCH_INSTALLED) mariadb wrk strace ## Measure payments per second beside two ceilings; WRITE=1 writes docs/performance.md
	@$(BIN)/python -m bench $(if $(SECONDS_EACH),--seconds $(SECONDS_EACH)) $(if $(WRITE),--write)

# make chaos-power CUTS=300 SEED=1
CUTS := 2000

.PHONY: chaos-power
chaos-power: SEED := $(or $(SEED),$(shell date +%s))
chaos-power: $(DEV_INSTALLED) compiler ## Cut the power CUTS times while people pay, and look at what the disk kept
	@echo "CUTS=$(CUTS) SEED=$(SEED)"
	@CUTS=$(CUTS) SEED=$(SEED) $(BIN)/python -m pytest --quiet --numprocesses auto tests/power/test_power_cuts.py

.PHONY: mutants
mutants: $(DEV_INSTALLED) ## Break the money core in a thousand small ways; the tests must notice all but two in a hundred
	tools/mutants

# make chaos KILLS=50 CUTS=300 SEED=1 KEEP=chaos.log
KILLS := 500

.PHONY: chaos
chaos: $(DEV_INSTALLED) mariadb mariabackup haproxy compiler ## Cut the power, kill the platform at every point and KILLS times at random; writes docs/reliability.md
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --cuts $(CUTS) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP))

##@ Checks

.PHONY: check
check: ruff format-check types imports ## Run everything that reads the code without running it

.PHONY: ruff
ruff: $(DEV_INSTALLED) ## Lint
	$(BIN)/ruff check

.PHONY: format-check
format-check: $(DEV_INSTALLED) ## Fail when `make format` would change a file
	$(BIN)/ruff format --check

.PHONY: types
types: $(DEV_INSTALLED) ## Check the types, strictly
	$(BIN)/mypy $(CODE)

.PHONY: imports
imports: $(DEV_INSTALLED) ## Check that imports go down only
	$(BIN)/lint-imports

##@ Upkeep

.PHONY: format
format: $(DEV_INSTALLED) ## Format the code and sort its imports
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

.PHONY: settings-table
settings-table: $(RUN_INSTALLED) ## Print the README's table of settings
	@$(BIN)/ewallet settings

.PHONY: haproxy-example
haproxy-example: $(DEV_INSTALLED) ## Write deploy/haproxy/haproxy.cfg as the code has it
	@$(BIN)/python -m tests.support.deployment > deploy/haproxy/haproxy.cfg

# The newest versions: make lock LOCK_FLAGS=--upgrade
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --no-config --generate-hashes --allow-unsafe \
	--strip-extras --no-emit-options --all-build-deps $(LOCK_FLAGS)

.PHONY: lock
lock: $(DEV_INSTALLED) ## Pin what pyproject.toml asks for, with hashes
	$(LOCK) --output-file requirements/run.txt pyproject.toml
	$(LOCK) --extra dev --constraint requirements/run.txt --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --extra bench --constraint requirements/run.txt --output-file requirements/bench.txt pyproject.toml

.PHONY: clean
clean: ## Remove the virtual environment and all caches; the data folder stays
	rm -rf .venv .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache mutants
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# --- what the targets above stand on --------------------------------------------------------------------------

$(BIN)/python:
	tools/make-venv

# The package itself is linked, not copied, and built by the locked backend, so nothing unpinned is fetched.
LINK_PACKAGE := $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

$(RUN_INSTALLED): requirements/run.txt pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes --requirement requirements/run.txt
	$(LINK_PACKAGE)
	touch $@

$(DEV_INSTALLED): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes --requirement requirements/dev.txt
	$(LINK_PACKAGE)
	touch $(RUN_INSTALLED) $@

$(BENCH_INSTALLED): requirements/bench.txt pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes --requirement requirements/bench.txt
	$(LINK_PACKAGE)
	touch $@

.PHONY: mariadb
mariadb:
	@command -v mariadbd >/dev/null || tools/install-packages mariadb-server

# Galera itself comes with the server.
.PHONY: mariabackup
mariabackup:
	@command -v mariabackup >/dev/null || tools/install-packages mariadb-backup

.PHONY: haproxy
haproxy:
	@command -v haproxy >/dev/null || tools/install-packages haproxy

.PHONY: systemd
systemd:
	@command -v systemd-analyze >/dev/null || tools/install-packages systemd

.PHONY: curl
curl:
	@command -v curl >/dev/null || tools/install-packages curl

.PHONY: promtool
promtool:
	@command -v promtool >/dev/null || tools/install-packages prometheus

.PHONY: compiler
compiler:
	@command -v gcc >/dev/null || tools/install-packages gcc libc6-dev

.PHONY: wrk
wrk:
	@command -v wrk >/dev/null || tools/install-packages wrk

.PHONY: strace
strace:
	@command -v strace >/dev/null || tools/install-packages strace
