# make demo        see it work (in DIR, by default ./demo-store; replaces its own earlier store there)
# make test        the fast tests
# make test-plain  those that depend on the kernel once more, on the plain one
# make test-slow   only the slow ones: crashes, power cuts, faults, races, damage, models
# make soak        the harnesses among them at SOAK (0.2) of their long figures; counts in soak-counts.jsonl
# make bench       measure it beside its rivals (BENCH_ARGS="--sizes 10k --repeats 1": see docs/howto/benchmark.md)
# make docs        the site, in build/docs
# make check       format, lint, types, documents and the fast tests on both kernels: what CI runs
#
# Everything is installed into VENV, which is made on first use; nothing else on the machine is changed.

PYTHON ?= python3
VENV ?= .venv
DIR ?= ./demo-store
# Test processes; JOBS=0 runs the tests in one, which a debugger needs.
JOBS ?= auto
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK ?= 0.2

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# What depends on the kernel; run a second time on the plain one where the compiled one was built.
KERNEL_TESTS := tests/unit tests/property tests/golden tests/stateful tests/cost tests/damage
KERNEL := $(BIN)/python -c "from kvgit_hamt import kernel; print(kernel.NAME)"
KERNEL_SOURCES := setup.py $(wildcard kvgit_hamt/_*.pyx kvgit_hamt/_*.pxi)

.PHONY: help demo test test-plain test-slow soak bench docs check lint format clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.installed
	$(BIN)/python -m kvgit_hamt demo --fresh "$(DIR)"

test: $(VENV)/.installed-dev
	@echo "kernel: $$($(KERNEL))"
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-plain: $(VENV)/.installed-dev
	@if [ "$$($(KERNEL))" = plain ]; then exit 0; fi; echo "kernel: plain"; \
	KVGIT_HAMT_PURE=1 $(PYTEST) -m "not slow" $(KERNEL_TESTS) $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow $(PYTEST_ARGS)

HARNESSES := crash damage faults race hostile stateful soak limits interchange
soak: $(VENV)/.installed-dev
	KVGIT_HAMT_SOAK=$(SOAK) KVGIT_HAMT_COUNTS=soak-counts.jsonl \
	$(PYTEST) -m slow $(wildcard $(addprefix tests/,$(HARNESSES))) $(PYTEST_ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench $(BENCH_ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict

# The documents' code, links and site are among the tests (tests/docs).
check: lint test test-plain

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f kvgit_hamt/_kernel.*.so kvgit_hamt/_kernel.*.pyd
	find kvgit_hamt tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the venv module is missing (Debian packs it apart), virtualenv does as well; it is brought
# into a directory of its own inside VENV's neighbour, which is removed again.
$(BIN)/python:
	@if $(PYTHON) -m venv "$(VENV)" >/dev/null 2>&1; then exit 0; fi; \
	rm -rf "$(VENV)"; \
	echo "'$(PYTHON) -m venv' does not work here (on Debian: apt install python3-venv); trying virtualenv" >&2; \
	if $(PYTHON) -m virtualenv --quiet "$(VENV)" 2>/dev/null; then exit 0; fi; \
	if $(PYTHON) -m pip install --quiet --target "$(VENV)-bootstrap" virtualenv \
	   && PYTHONPATH="$(VENV)-bootstrap" $(PYTHON) -m virtualenv --quiet "$(VENV)"; \
	then rm -rf "$(VENV)-bootstrap"; exit 0; fi; \
	rm -rf "$(VENV)" "$(VENV)-bootstrap"; \
	echo "no virtual environment could be made: install the venv module of $(PYTHON), or pip" >&2; \
	exit 1

$(VENV)/.installed: pyproject.toml $(KERNEL_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[cli]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(KERNEL_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[cli,dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(KERNEL_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[cli,docs]"
	@touch $@

# A rival that cannot be had here is left out by name, one by one; the benchmark then skips it.
$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[cli,bench]" || { \
	  $(BIN)/python -m pip install --quiet -e ".[cli]" && for rival in doltlite "kvgit[disk]" prollytree; do \
	  $(BIN)/python -m pip install --quiet "$$rival" || echo "$$rival could not be installed" >&2; done; }
	@touch $@ $(VENV)/.installed
