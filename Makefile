# Each target does all of its own set-up: Python 3.11 or later and make are enough.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m
# Those that a program writes have lines of their own.
PAGES = $(filter-out docs/benchmarks.md docs/reliability.md,$(wildcard *.md docs/*.md docs/*/*.md proof/*.md))

.PHONY: help demo serve test test-postgres test-floors faults soak bench proof lint types imports check clean

help: ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## A worker awaits rows that another process changes; woken, and polled beside it
	$(VENV)/bin/python examples/orders/demo.py

serve: $(VENV)/.serve ## A web page with orders that change live, on a server that keeps its data; PORT=8000
	$(VENV)/bin/python examples/orders/serve.py

test: $(VENV)/.test ## All tests, or TESTS="tests/unit …", on an embedded PostgreSQL or the one of DATABASE_URL
	$(RUN) pytest $(TESTS)

test-postgres: $(VENV)/.test ## The tests on PostgreSQL VERSION=14 to 18; TESTS="tests/database …" for some of them
	$(VENV)/bin/python tests/on_postgres.py $(VERSION) $(RUN) pytest $(TESTS)

test-floors: ## The tests with the oldest versions that rowbell says it works with; TESTS="…" for some of them
	$(MAKE) VENV=.venv-floors .venv-floors/.floors
	.venv-floors/bin/python -m pytest $(TESTS)

faults: $(VENV)/.test ## Breaks things for real, and writes how late each change was seen into docs/reliability.md
	$(RUN) pytest -q -m fault --catalogue=docs/reliability.md tests

soak: $(VENV)/.test ## Many waits, writers and faults for SECONDS=600, judged by an oracle; SEED=7 repeats one
	$(VENV)/bin/python soak/soak.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(SOAK)

bench: ## rowbell beside its peers, in an environment of its own: half an hour; BENCH=wake for one part
	$(MAKE) VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python bench/run.py $(BENCH)

proof: ## The arming protocol, checked by machine with 3 writers; WRITERS=2 is shorter. Needs spin and gcc
	$(PYTHON) proof/check.py --writers $(or $(WRITERS),3)

lint: $(VENV)/.lint ## ruff, and the pages' one line width
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mdformat --check $(PAGES)

types: $(VENV)/.lint ## mypy and pyright, both strict
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python

imports: $(VENV)/.lint ## Imports run one way
	PYTHONPATH=src $(VENV)/bin/lint-imports

check: lint types imports test ## Everything

clean: ## Remove the virtual environments
	rm -rf $(VENV) .venv-bench .venv-floors

$(VENV)/.floors: $(VENV)/.test
	$(RUN) pip install --quiet $$($(VENV)/bin/python tests/floors.py)
	touch $@

$(VENV)/.%: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) pip install --quiet --editable . --group $*
	touch $@
