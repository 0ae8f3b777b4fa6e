# `make demo` shows streamasr at work, `make test` runs its tests; both set up .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
REFERENCE := .venv-reference
REFERENCE_INSTALLED := $(REFERENCE)/.installed

.PHONY: demo test check reference format clean

demo: $(INSTALLED)
	$(BIN)/streamasr transcribe --partials --words $(shell $(BIN)/python -c 'import streamasr.models.tiny as t; print(t.DEMO)' 2>/dev/null)

test: $(INSTALLED)
	$(BIN)/pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Compares with the reference implementation; torch and transformers have an environment of their own.
reference: $(REFERENCE_INSTALLED)
	$(REFERENCE)/bin/python -m pytest -m reference tests/reference

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo "Installing; llama.cpp is compiled, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --editable . --group dev
	@touch $@

clean:
	rm -rf $(VENV) $(REFERENCE)
