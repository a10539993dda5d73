# Everything runs in .venv, made by the first target that needs it. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KEEP ?=
TESTS ?=
BENCH ?=
SEED ?=
SINK ?=
FAULTS ?= 200
MINUTES ?=
SECONDS ?= 300
ROWS ?= 1000000
JOBS ?= 4

# Set in many containers; without compiled modules every service that a test starts compiles them anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv demo test faults commit-order check lint format types imports bench bench-files bench-requests docs lock clean
# One recipe at a time: the tests and the demo measure.
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## the virtual environment, from the lock

# pip reads the lock with hashes; the project itself is installed beside it, without asking anybody for anything.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv ## real servers, real rows, a stop, a kill -9, and the proof; KEEP=1 leaves it running
	@KEEP=$(KEEP) $(BIN)/python -m demo

# Many tests measure time, and a neighbour may take it from them: what failed side by side is run again by itself, and
# what fails by itself fails. Both reports are shown.
test: venv ## all tests, the quick ones first; TESTS="tests/unit -k name" for some; JOBS=1 one after the other
	$(BIN)/python -m pytest $(BESIDE) $(TESTS) || { test $$? = 1 && test -n "$(BESIDE)" && \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(TESTS); }
BESIDE = $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS) --dist loadfile)

# After the faults, the long form of the contract's case of a million rows.
faults: venv ## 200 faults for each sink, then a million rows; SEED=7 SINK=kafka FAULTS=50 replays one
	ROWFERRY_FAULTS=$(FAULTS) ROWFERRY_FAULT_SEED=$(SEED) ROWFERRY_FAULT_MINUTES=$(MINUTES) \
	  $(BIN)/python -m pytest -s tests/fault/test_fault_suite.py -k "whatever_breaks $(if $(SINK),and $(SINK))"
	$(if $(SEED),,ROWFERRY_TEST_ROWS=$(ROWS) \
	  $(BIN)/python -m pytest tests/contract/test_sink.py -k "million_rows $(if $(SINK),and $(SINK))")

commit-order: venv ## writers that commit out of order against jobs that are killed; SEED=7 SECONDS=600
	ROWFERRY_COMMIT_ORDER_SECONDS=$(SECONDS) ROWFERRY_FAULT_SEED=$(SEED) \
	  $(BIN)/python -m pytest -s tests/fault/test_commit_order.py

check: lint types imports test ## what CI runs: lint, format, types, import rules, tests

lint: venv ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv ## mypy, strict
	$(BIN)/mypy

imports: venv ## who may import whom
	$(BIN)/lint-imports

bench: venv ## rows/s beside psql | kcat, then status requests; BENCH="--rows 100000 --repeat 1", or BENCH=--memory, of rows alone
	@$(BIN)/python -m bench $(BENCH)
	@$(if $(BENCH),,$(BIN)/python -m bench.requests)

docs: venv ## make the pages that are made from code
	$(BIN)/python -m docs.make
	$(BIN)/python -m config.names > docs/metrics-and-log-events.md

bench-files: venv ## jobs into files and S3 beside psql's COPY; BENCH=--peers adds sling and dlt
	@$(BIN)/python -m bench.files $(BENCH)

bench-requests: venv ## signed status requests over 10,000 jobs in each language beside an empty handler
	@$(BIN)/python -m bench.requests $(BENCH)

# Run by hand when dependencies change. uv resolves for every Python and platform at once, which pip cannot.
lock: venv ## resolve both locks anew (needs uv)
	uv pip compile $(LOCK) pyproject.toml -o requirements.lock
	uv pip compile $(LOCK) pyproject.toml --extra embedded --group dev -c requirements.lock -o requirements-dev.lock
LOCK := --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
  --no-annotate --quiet --upgrade

clean: ## remove what the targets above made, not data/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
