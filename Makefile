# Each target does all of its own set-up: Python 3.11 or later and make are enough.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m
PYTEST ?= pytest
# Those that a program writes have lines of their own.
PAGES = $(filter-out docs/explanation/benchmarks.md docs/explanation/reliability.md,$(wildcard \
	*.md docs/*.md docs/*/*.md docs/*/*/*.md proof/*.md .github/*.md))

.DEFAULT_GOAL := help
.PHONY: help demo fleet serve test test-postgres test-floors test-newest test-wheel coverage faults soak \
	bench proof lint types imports workflows check docs dist release clean

##@ Look at it
help: ## Show this list. Every target sets up its own virtual environment
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nBegin with "make demo" and "make test"; CONTRIBUTING.md leads through a change.\n'

demo: $(VENV)/.demo ## A worker awaits rows that another process changes, woken and polled
	$(VENV)/bin/python examples/orders/demo.py

serve: $(VENV)/.serve ## A web page with orders that change live, on a server that keeps its data; PORT=8000
	$(VENV)/bin/python examples/orders/serve.py

fleet: $(VENV)/.fleet ## Twenty workers on one LISTEN, while relay, NATS and PostgreSQL are killed and frozen
	$(VENV)/bin/python examples/fleet/fleet.py $(FLEET)

docs: $(VENV)/.docs ## The site of the documentation, in docs/_build/index.html; warnings are errors
	$(RUN) sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build

##@ Before a commit
check: lint types imports workflows test ## Everything that a change needs to pass

lint: $(VENV)/.lint ## ruff, and the pages' one line width
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mdformat --check $(PAGES)

types: $(VENV)/.lint ## mypy and pyright, both strict
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python

imports: $(VENV)/.lint ## Imports run one way
	PYTHONPATH=src $(VENV)/bin/lint-imports

workflows: $(VENV)/.lint ## The files for GitHub, Read the Docs, Docker Compose and pre-commit are valid
	$(VENV)/bin/zizmor --offline --quiet --no-progress --strict-collection --persona=pedantic .github
	$(VENV)/bin/check-jsonschema --builtin-schema github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema dependabot .github/dependabot.yml
	$(VENV)/bin/check-jsonschema --builtin-schema readthedocs .readthedocs.yaml
	$(VENV)/bin/check-jsonschema --builtin-schema compose-spec docker-compose.yml
	$(VENV)/bin/pre-commit validate-config .pre-commit-config.yaml

test: $(VENV)/.test ## All tests, or TESTS="tests/unit …", on an embedded PostgreSQL or that of DATABASE_URL
	$(RUN) $(PYTEST) $(TESTS)

##@ With other versions
test-postgres: $(VENV)/.test ## The tests on PostgreSQL VERSION=14 to 18; TESTS="tests/database …"
	$(VENV)/bin/python tests/on_postgres.py $(VERSION) $(RUN) pytest $(TESTS)

test-floors: ## The tests with the oldest dependencies that pyproject.toml allows; TESTS="…"
	$(MAKE) VENV=.venv-floors .venv-floors/.floors
	.venv-floors/bin/python -m pytest $(TESTS)

test-newest: ## The tests with the newest dependencies of WITH="sqlalchemy<2.1"; TESTS="…"
	$(MAKE) VENV=.venv-newest .venv-newest/.test
	.venv-newest/bin/python -m pip install --quiet --upgrade --editable . $(foreach one,$(WITH),'$(one)')
	.venv-newest/bin/python -m pytest $(TESTS)

test-wheel: dist ## The wheel, in empty environments, without extras and with each
	$(VENV)/bin/python tests/wheel.py dist/*.whl

##@ Trust
coverage: $(VENV)/.test ## All tests, and which lines and branches they reach; fails below the floor
	$(MAKE) test PYTEST='coverage run -m pytest'
	$(RUN) coverage report

faults: $(VENV)/.test ## Breaks things for real, and writes how late each change was seen into a page
	$(RUN) pytest -q -m fault --catalogue=docs/explanation/reliability.md tests

soak: $(VENV)/.test ## Many waits, writers and faults for SECONDS=600, judged by an oracle; SEED=7 repeats
	$(VENV)/bin/python soak/soak.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(SOAK)

proof: ## The protocol, checked by machine with 3 writers; WRITERS=2 is shorter. Needs spin and gcc
	$(PYTHON) proof/check.py --writers $(or $(WRITERS),3)

bench: ## rowbell beside its peers, in an environment of its own: half an hour; BENCH=wake for a part
	$(MAKE) VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python bench/run.py $(BENCH)

##@ Release
dist: $(VENV)/.package ## The wheel and the source distribution, in dist/, checked
	rm -rf dist
	$(RUN) build --outdir dist . > /dev/null
	$(RUN) twine check --strict dist/*
	$(VENV)/bin/check-wheel-contents dist/*.whl

release: test-wheel docs ## Walks through the checklist of a release; publishes nothing
	$(VENV)/bin/python .github/release.py

clean: ## Remove the virtual environments, and what was built
	rm -rf $(VENV) .venv-bench .venv-floors .venv-newest dist docs/_build

$(VENV)/.floors: $(VENV)/.test
	$(RUN) pip install --quiet $$($(VENV)/bin/python tests/floors.py)
	touch $@

$(VENV)/.%: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) pip install --quiet --editable . --group $*
	touch $@
