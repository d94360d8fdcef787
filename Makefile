# Two commands matter: `make demo` and `make test`. Both first install what is missing.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-test setup-prove setup-bench demo test test-all prove bench bench-full check format lock fresh clean

bin := .venv/bin

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: ## install what Fleetcast needs to run, if it is missing
	@scripts/setup

setup-test: ## the same, and what tests and checks need
	@scripts/setup test

setup-prove: ## the same, and what the longest proofs need (a virtual machine)
	@scripts/setup prove

setup-bench: ## the same, and what the benchmarks draw and compare with (nginx, which is not started)
	@scripts/setup bench

demo: setup ## the whole platform with cars and phones; ARGS="--seconds 30" ends with a summary
	@exec $(bin)/fleetcast demo $(ARGS)

test: check ## check, then every test (TESTS="tests/test_sse.py -k name" for some)
	@$(bin)/pytest -n 3 $(TESTS)

test-all: setup-prove test ## test and the long tests, then mutants: bugs that the proof and `conform` must find (MUTANTS="name name" for some)
	@$(bin)/pytest -n 3 -m long
	@$(bin)/python -m tests.mutants.run $(MUTANTS)
	@$(bin)/python -m tests.mutants.conform

prove: setup-prove ## the long proof, every act: about an hour (needs root; ARGS="--seed 1" for the same again)
	@exec $(bin)/fleetcast prove --acts all --faults 240 --cars 60 --phones 100 --rate 400 $(ARGS)

bench: setup-bench ## measure this machine, every question at a small size: half an hour (ARGS="load" for one)
	@exec $(bin)/python -m bench $(ARGS)

bench-full: setup-bench ## the same at full size: hours; ARGS=--document writes docs/benchmarks.md
	@exec $(bin)/python -m bench --full $(ARGS)

check: setup-test ## style, types and the direction of imports
	@$(bin)/ruff check --quiet --output-format concise
	@$(bin)/ruff format --check --quiet --diff
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo

format: setup-test ## rewrite the code in the project's style
	@$(bin)/ruff check --fix --quiet
	@$(bin)/ruff format

lock: ## write both lock files from pyproject.toml (ARGS=--upgrade for the newest versions)
	@scripts/lock $(ARGS)

fresh: ## run the README's commands in a bare Debian 12 (needs root)
	@scripts/fresh

clean: ## remove the virtual environment, caches and run data
	@rm -rf .venv data .fleetcast build dist *.egg-info .hypothesis .*_cache
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
