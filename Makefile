# Everything a user or CI runs. Needs make and Python >= 3.10 (with venv); the rest is set up in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PIP_WHEEL = $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --wheel-dir $(BUNDLE)/wheels
PIP_DOWNLOAD = $(BIN)/python -m pip download --quiet --disable-pip-version-check --dest $(BUNDLE)/wheels

.PHONY: demo test test-broker test-ops test-browser test-train test-slow check format bench bench-page bundle contract full-size load sim2real rehearsal clean

demo: $(VENV)/.demo  ## six virtual embryos through five days, at high speed
	$(BIN)/pellucid demo

test: $(VENV)/.dev  ## the fast tests
	$(BIN)/python -m pytest

test-broker: $(VENV)/.dev  ## needs Mosquitto and promtool: apt-get install mosquitto openssl prometheus
	$(BIN)/python -m pytest -m 'broker and not slow'

# as root also a machine with a systemd of its own; the packages stand in .ci/run
test-ops: $(VENV)/.dev  ## deploy/ with the real programs
	$(BIN)/python -m pytest -m ops

test-browser: $(VENV)/.dev  ## the page in a real browser: apt-get install chromium
	$(BIN)/python -m pytest -m browser

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-train: $(VENV)/.train  ## needs torch (installed here)
	$(BIN)/python -m pytest -m train

# the papers' two streaming networks beside the bundled models; with all the others: make full-size, then this
RTX_FULL_SIZE = amsnet-resnet50 embryodiff-resnet18
test-rtx: $(VENV)/.rtx $(RTX_FULL_SIZE:%=build/models/%.json)  ## every model through NVIDIA's parser and builder; no GPU
	$(BIN)/python -m pytest -m rtx

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

contract: $(VENV)/.dev  ## JSON Schemas, AsyncAPI document and samples below deploy/, from the node's own models
	$(BIN)/python -m monitor.contract deploy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.demo  ## a table of times, ratios and bytes against their goals, and the same as JSON
	mkdir -p build && rm -f build/bench-pytorch.json
	if $(BIN)/python -c 'import onnx, torch' 2>/dev/null; then $(BIN)/python -m training.amsnet.bench --out build/bench-pytorch.json; fi
	$(BIN)/pellucid engines bench --add build/bench-pytorch.json --json-file build/bench.json
	cat build/bench.json

# random weights: right in size and speed, without meaning. Hundreds of MB, outside the repository
FULL_SIZE = amsnet-resnet50 embryodiff-resnet18 embryodiff-resnet50 i2cnet gardner memebg
full-size: $(FULL_SIZE:%=build/models/%.json)  ## the papers' sizes (AMSNet: ResNet-50, 7 planes, 224 px) for bench and run

build/models/amsnet-resnet50.json: | $(VENV)/.train
	$(BIN)/python -m training.amsnet.export --random-weights --backbone resnet50 --name amsnet-resnet50 --out $(@D)

build/models/embryodiff-%.json: | $(VENV)/.train
	$(BIN)/python -m training.embryodiff.export --random-weights --trunk $* --head-size paper --name embryodiff-$* --out $(@D)

build/models/%.json: | $(VENV)/.train
	$(BIN)/python -m training.$*.export --random-weights --paper --name $* --out $(@D)

# for a machine like this one (Python, processor); for a Jetson from anywhere: make bundle FOR=jetson
FOR ?= here
EXTRAS ?= web
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' monitor/__init__.py)
BUNDLE = build/pellucid-$(VERSION)
FOREIGN_jetson = --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --python-version 3.10 --only-binary=:all:
bundle: $(VENV)/.made  ## build/pellucid-<version>.tar: all a machine without internet needs to install this version
	rm -rf $(BUNDLE) && mkdir -p $(BUNDLE)/wheels
	$(PIP_WHEEL) --no-deps .
	$(if $(FOREIGN_$(FOR)),$(PIP_DOWNLOAD) $(FOREIGN_$(FOR)),$(PIP_WHEEL)) "$$(ls $(BUNDLE)/wheels/pellucid-*.whl)$(EXTRAS:%=[%])"
	cp -r deploy LICENSE $(BUNDLE)
	tar -C build -cf $(BUNDLE).tar pellucid-$(VERSION)

bench-page: $(VENV)/.demo  ## the page's times with 72 embryos, and a frame's way with and without it
	$(BIN)/python -m monitor.web.bench

load: $(VENV)/.dev  ## 240 embryos within one second, a real daemon and a real Mosquitto (apt-get install mosquitto)
	$(BIN)/python -m pytest tests/test_load.py -m 'broker and slow' -s

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) -e '.[demo,web]'
	touch $@

# pip >= 25.1 reads dependency groups; the one that comes with Python 3.10 to 3.12 may be older
$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) --group dev
	touch $@

# this version first: a looser requirement may pull gigabytes of CUDA onto a machine without a GPU
$(VENV)/.train: $(VENV)/.dev
	$(PIP) 'torch==2.13.0'
	$(PIP) -e '.[demo,web,train]'
	touch $@

$(VENV)/.rtx: $(VENV)/.train
	$(PIP) -e '.[demo,web,train,rtx-check]'
	touch $@

# one round of measuring how real the drawing is: draws 1,200 embryos, trains 13 minutes, reads the tuning sets only
sim2real: $(VENV)/.train  ## see training/sim2real/README.md
	nice -n 10 $(BIN)/python -m training.sim2real.train --embryos 1200 --minutes 13 --name round --workers 2
	nice -n 10 $(BIN)/python -m training.sim2real.evaluate --run training/runs/sim2real/round

# alerts scored on a script of virtual embryos: 300 with a frame each hour, 20 with one each ten minutes. Hours of drawing;
# it goes on where it was stopped
EMBRYOS ?= 300
TEN_MIN ?= 20
rehearsal: $(VENV)/.demo
	nice -n 10 $(BIN)/python -m monitor.rehearsal.record --embryos $(EMBRYOS) --ten-min $(TEN_MIN) --out build/rehearsal
	$(BIN)/python -m monitor.rehearsal.score --record build/rehearsal

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
