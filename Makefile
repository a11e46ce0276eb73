# make install | demo | up | test | check | bench | clean     (nothing here needs root or a system package)
#
#   make install EXTRAS=serve,gpu,dev     for a machine with an NVIDIA GPU
#   make up CONFIG=deployments/FILE.yaml  another configuration
#   make test TESTS=tests/unit            some of the tests

SHELL := bash
supported := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(supported)' 2>/dev/null && { echo $$p; break; }; done)
# What is installed stays: `make up` after `make install EXTRAS=serve,gpu,dev` must not bring the CPU's ONNX Runtime.
INSTALLED := $(patsubst .venv/installed-%,%,$(firstword $(wildcard .venv/installed-*)))
DEFAULT_EXTRAS := serve,cpu,dev
EXTRAS ?= $(or $(INSTALLED),$(DEFAULT_EXTRAS))
CONFIG ?= deployments/local.yaml
TESTS ?= tests
BENCHMARKS ?= g2_concurrency g3_mix g4_admission g5_overload g6_exact g7_end_to_end g8_cancels g8_replicas
BIN := .venv/bin
STAMP := .venv/installed-$(EXTRAS)

# Replicas and test processes share the machine: one compute thread each.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: install demo up test check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make install PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { echo "The venv module is needed: python3-venv on Debian and Ubuntu" >&2; exit 1; }
	@rm -f .venv/installed-*
	# The two builds of ONNX Runtime are one module: whichever came last would shadow the other.
	$(BIN)/pip uninstall -qqy $(if $(findstring gpu,$(EXTRAS)),onnxruntime,onnxruntime-gpu)
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	# Its own requirements would bring a second OpenCV and a second ONNX Runtime: docs/decisions/0002.
	$(BIN)/pip install -q -c constraints.txt --no-deps insightface
	@touch $@

demo: install
	$(BIN)/instantid-serve demo

up: install
	$(BIN)/instantid-serve up $(CONFIG)

test: install
	$(BIN)/pytest $(TESTS)

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/constraints.py check
	$(BIN)/python scripts/openapi.py check

# Measures what needs no GPU, one after the other, in under 20 minutes; the results go to load_tests/results.
bench: install
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m load_tests.bench.$$name; done
	$(BIN)/python load_tests/report.py

clean:
	rm -rf .venv demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
