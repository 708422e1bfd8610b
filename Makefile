# Everything a user or CI runs. Needs make and Python >= 3.10 (with venv); the rest is set up in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-broker test-train test-slow check format bench clean

demo: $(VENV)/.demo  ## six virtual embryos through five days, at high speed
	$(BIN)/pellucid demo

test: $(VENV)/.dev  ## the fast tests
	$(BIN)/python -m pytest

test-broker: $(VENV)/.dev  ## needs Mosquitto and promtool: apt-get install mosquitto prometheus
	$(BIN)/python -m pytest -m broker

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-train: $(VENV)/.train  ## needs torch (installed here)
	$(BIN)/python -m pytest -m train

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.demo
	$(BIN)/pellucid engines bench

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) -e '.[demo]'
	touch $@

# pip >= 25.1 reads dependency groups; the one that comes with Python 3.10 to 3.12 may be older
$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) --group dev
	touch $@

# this version first: a looser requirement may pull gigabytes of CUDA onto a machine without a GPU
$(VENV)/.train: $(VENV)/.dev
	$(PIP) 'torch==2.13.0'
	$(PIP) -e '.[demo,train]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
