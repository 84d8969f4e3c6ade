# `make demo` and `make test` are all a newcomer needs; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
export WANDB_MODE ?= offline

.DEFAULT_GOAL := help
.PHONY: help setup lint format test test-slow test-long test-all test-numerics test-lowest docs tutorials demo bench zoo zoo-research clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: .venv/.installed  ## create .venv and install the zoo with its development tools

lint: setup  ## style, formatting, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup  ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup  ## the fast tests
	$(BIN)/python -m pytest -n auto -m "not slow and not long"

test-slow: setup  ## the tests that start processes or train for a while
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[datatrove]'
	$(BIN)/python -m pytest -n auto -m "slow and not long"

test-long: setup  ## two machines, browsers, 100 kills over all families; writes docs/results/kills.md (over an hour)
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.long.kills --kills 100 --out docs/results/kills.md

test-all: test test-slow  ## every test

# The site needs no PyTorch: it is built by a small environment of its own, by reading the sources.
.venv-docs/.installed: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install -q --disable-pip-version-check -r .venv-docs/requirements.txt
	@touch $@

docs: .venv-docs/.installed  ## build the documentation site into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

tutorials: setup  ## run the tutorials, and keep what they print and draw for the site
	$(BIN)/python docs/tools/tutorial.py
# The numbers must be right on any processor: again with the instructions that all of them have.
NUMERICS := tests/layers tests/metrics tests/vae tests/ddpm tests/wgan tests/flash tests/simbert/test_losses.py
LOWEST_CPU := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem

test-numerics: setup  ## the fast tests of the mathematics under the oldest instruction set
	$(LOWEST_CPU) $(BIN)/python -m pytest -n auto -m "not slow and not long" $(NUMERICS)

# Warnings between libraries of different years are not ours.
test-lowest:  ## the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]' -c .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pytest -n auto -m "not slow and not long" -W default::DeprecationWarning

demo: setup  ## train DDPM on handwritten digits, print its numbers, draw a grid (about 5 minutes)
	$(BIN)/zoo fit -c ddpm/digits --run_dir runs/demo --ckpt_path last
	$(BIN)/zoo test --ckpt_path runs/demo
	$(BIN)/zoo sample runs/demo -n 100 --columns 10 --out runs/demo/digits.png

bench: setup  ## the benchmarks, ours and the peers by turns: bench/bench.json and bench.md (half an hour; needs the extra `bench`)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/all.py

DATA ?= data
RUNS ?= runs

zoo: setup  ## train, test and export what ships, and write RESULTS.md (DATA=, RUNS=; a day of one core)
	OMP_NUM_THREADS=1 $(BIN)/python -m trained --data $(DATA) --runs $(RUNS)

zoo-research: setup  ## the same for the models whose data may not be passed on (another day)
	OMP_NUM_THREADS=1 $(BIN)/python -m trained --research --data $(DATA) --runs $(RUNS)

clean:  ## remove what the tools left behind (not runs/, not .venv)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .grimp_cache dist build site *.egg-info
