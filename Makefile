# The commands of a developer. `make` alone lists them.

PYTHON ?= python

.PHONY: help install test lint docs bench

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install:  ## install the project, editable, with what its tests need
	$(PYTHON) -m pip install -c constraints.txt -e '.[test]'

test:  ## run the tests
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint:  ## check style and types
	ruff check .
	ruff format --check .
	mypy

docs:  ## write the help of every command to build/docs/commands.txt
	mkdir -p build/docs
	study --help > build/docs/commands.txt
	for command in $$($(PYTHON) -c "from study.cli.app import study; print(*study.list_commands(None))"); do \
		echo && study $$command --help || exit 1; \
	done >> build/docs/commands.txt

bench:  ## run one benchmark: make bench NAME=engine ARGS=lanes; without NAME, list them
ifdef NAME
	$(PYTHON) tests/benchmarks/bench_$(NAME).py $(ARGS)
else
	@ls tests/benchmarks | sed -n 's/^bench_\(.*\)\.py$$/make bench NAME=\1/p'
endif
