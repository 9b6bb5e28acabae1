# Every command works from a fresh clone: each target makes the environment first and does nothing when it is current.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTEST_ARGS ?= -n auto

.DEFAULT_GOAL := help
.PHONY: help setup run test fault lint format bench docs lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the locked dependencies

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Switchhook needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 2; }
	@echo "Making $(VENV) (about a minute, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $(STAMP)

run: $(STAMP) ## serve everything on http://127.0.0.1:8000
	@$(BIN)/switchhook up $(UP_ARGS)

test: $(STAMP) ## run all tests that this machine can run
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

fault: $(STAMP) ## 1,000 messages while processes, Redis and the database are killed; at most five minutes
	@$(BIN)/python -m tests.fault $(FAULT_ARGS)

lint: $(STAMP) ## style, types and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## measure the hot paths beside their floors
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(STAMP) ## write the generated parts of docs/ and .env.example anew
	@$(BIN)/python -m webapp.cli.reference

lock: ## compile the locked requirements anew (needs uv)
	uv pip compile pyproject.toml --extra postgres --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements/dev.txt
	uv pip compile pyproject.toml --extra postgres --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -c requirements/dev.txt -o requirements/runtime.txt

clean: ## remove the environment and what the tools left behind (never instance/)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
