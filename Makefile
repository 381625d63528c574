# Each target does all of its own set-up: Python 3.11 or later and make are enough.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m

.PHONY: help demo test test-postgres bench proof lint types imports check clean

help: ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## A worker awaits rows that another process changes; woken, and polled beside it
	$(VENV)/bin/python examples/orders/demo.py

test: $(VENV)/.test ## All tests, against an embedded PostgreSQL or the one of DATABASE_URL
	$(RUN) pytest

test-postgres: $(VENV)/.test ## The tests on PostgreSQL VERSION=14 to 18; TESTS="tests/test_rights.py …" for some of them
	$(VENV)/bin/python tests/on_postgres.py $(VERSION) $(RUN) pytest $(TESTS)

bench: ## rowbell beside its peers, in an environment of its own: writes docs/benchmarks.md in half an hour
	$(MAKE) VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python bench/run.py $(BENCH)

proof: ## The arming protocol, checked by machine with 3 writers; WRITERS=2 is shorter. Needs spin and gcc
	$(PYTHON) proof/check.py --writers $(or $(WRITERS),3)

lint: $(VENV)/.lint ## ruff
	$(RUN) ruff check
	$(RUN) ruff format --check

types: $(VENV)/.lint ## mypy and pyright, both strict
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python

imports: $(VENV)/.lint ## Imports run one way
	PYTHONPATH=src $(VENV)/bin/lint-imports

check: lint types imports test ## Everything

clean: ## Remove the virtual environment
	rm -rf $(VENV) .venv-bench

$(VENV)/.%: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) pip install --quiet --editable . --group $*
	touch $@
