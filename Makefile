# The contributor's path: install, check, test, demo.  `make help` lists all.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install check format test demo chaos soak mutants fuzz bench bench-takeover bench-learning clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS="$$(printf '\t')" read -r a b; do printf '  make %-16s %s\n' "$$a" "$$b"; done

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[demo]' --group dev
	@touch $@

install: $(VENV)/.installed  ## everything into .venv

check: install  ## linters and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install  ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: install  ## the tests (what is missing on this machine is skipped, with its reason)
	@$(BIN)/python -m pytest

demo: install  ## a minute of drifting events through the real worker, with no server
	@$(BIN)/fluvial demo

chaos: install  ## faults at random on real workers, Kafka and Redis, and a verdict (ARGS="--seed 7 --workers 3")
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

soak: install  ## an hour at a steady rate: do memory, handles and threads stay flat? (ARGS="--minutes 10")
	@PYTHONPATH=tests $(BIN)/python -m chaos.soak $(ARGS)

mutants: install  ## builds broken on purpose, each of which the tests must fail (ARGS="--only no-mac-check")
	@PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

fuzz: install  ## a million mutated payloads through decoder and worker (ARGS="--events 100_000 --processes 2")
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

bench: install  ## speed against River alone and against what one would write instead (needs Kafka and Redis)
	@$(BIN)/python benchmarks/speed.py

bench-takeover: install  ## from SIGKILL to learning again (needs Kafka and Redis)
	@$(BIN)/python benchmarks/takeover.py

bench-learning: install  ## what each reaction to drift is worth
	@$(BIN)/python benchmarks/learning.py

clean:  ## remove the environment and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
