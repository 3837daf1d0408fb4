# make quickstart                            installs what running needs
# make install | test | test-learn | test-faults | bench   and what tests, lint and benchmarks need
# CUDA=1 for NVIDIA machines
# make bench BENCH="NAME ... --feedback FILE": some figures only, on a feedback file of yours
# make gpu-check CUDA=1 GPU="STEP ..."       one NVIDIA card; without GPU all steps

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3,$(if $(shell \
	$(python) -c 'import sys; print("y" * ((3, 11) <= sys.version_info[:2] < (3, 13)))' \
	2>/dev/null),$(python))))
HARDWARE := $(if $(CUDA),cuda,cpu)
STAMP := $(VENV)/.installed-$(HARDWARE)
DEV_STAMP := $(STAMP)-dev
UV_VERSION := 0.13.8

OVERRIDES := --override requirements/overrides.txt
TORCH :=
ifeq ($(HARDWARE),cpu)
OVERRIDES += --override requirements/overrides-cpu.txt
TORCH := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)
endif

.NOTPARALLEL:
.PHONY: browser install quickstart test unit integration test-learn test-faults lint types bench gpu-check

install: $(DEV_STAMP)

$(STAMP): EXTRAS := $(HARDWARE)
$(DEV_STAMP): EXTRAS := $(HARDWARE),dev,openrlhf

$(STAMP) $(DEV_STAMP): setup.py $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found: set PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(OVERRIDES) $(TORCH) -e ".[$(EXTRAS)]"
	touch $@

quickstart: $(STAMP)
	$(BIN)/rto quickstart

# A real browser for the tests of the report; without one they are skipped, but not where CI=true.
browser:
	@if which chromium chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && which apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; \
	else echo "make: no chromium, and no root with apt-get to install it" >&2; fi

# Types take the time that the integration tests leave of the cores.
test: lint unit
	nice -n 19 $(MAKE) types & types=$$!; $(MAKE) integration; tests=$$?; wait $$types && exit $$tests

unit integration test-learn test-faults: export OMP_NUM_THREADS = 1

unit: install browser
	$(BIN)/python -m pytest -n 2 -m "not (learn or integration or faults)"

integration: install
	$(BIN)/python -m pytest -m "integration and not (learn or faults)"

test-learn: install
	test -f runs/quickstart/summary.json || $(BIN)/rto quickstart
	$(BIN)/python -m pytest -m learn -s

# FAULTS="-k R1": some goals only.
test-faults: install
	$(BIN)/python -m pytest -m faults tests/faults $(FAULTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install
	$(BIN)/python -m benchmarks.run $(BENCH)

gpu-check: install
	$(BIN)/python -m benchmarks.gpu.run $(GPU)
