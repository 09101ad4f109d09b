# Two commands do everything on a fresh clone: `make compare` and `make test`.
# They need make and a Python 3.12 or newer; name another with `make PYTHON=...`.

PYTHON ?= $(shell command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
LATEST := .venv-latest
OLDEST := .venv-oldest
CLIENTS := .venv-clients
BIN := $(VENV)/bin
CONFIG ?= configs/mixture.yaml
NEEDS_EXTRAS := tests/flows tests/plots tests/tracking tests/test_code_blocks.py \
  tests/test_wheel.py \
  $(addprefix tests/comparison/test_,config.py data.py durations.py malformed.py processes.py workspace.py) \
  $(addprefix pymc_vi_ext/comparison/,_strict.py _yaml.py config.py data.py schedule.py seeds.py)

# The reference posteriors, where a copy lies beside the checkout.
ifneq ($(wildcard ../shared/posteriordb),)
export POSTERIORDB ?= $(abspath ../shared/posteriordb)
endif

# No service may be called home, and none is.
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false

.DEFAULT_GOAL := help
.PHONY: help setup compare validate test test-latest test-oldest test-clients lint types docs bench bench-stopping bench-accuracy bench-families bench-rogues bench-trust bench-verdicts bench-processes bench-kernels bench-large bench-leapfrogs bench-clients bench-flows schema constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 16

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	  { echo "pymc-vi-ext needs Python 3.12 or newer: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	@touch $@

$(LATEST)/.ready: pyproject.toml constraints-latest.txt
	@echo "Setting up $(LATEST) with the newest PyMC (a few minutes, once)"
	@$(PYTHON) -m venv $(LATEST)
	@$(LATEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(LATEST)/bin/python -m pip install --quiet -c constraints-latest.txt \
	  -e '.[flows,samplers]' --group dev
	@touch $@

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@echo "Setting up $(OLDEST) with the oldest dependencies (a few minutes, once)"
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[plots]' --group dev
	@touch $@

$(CLIENTS)/.ready: pyproject.toml
	@echo "Setting up $(CLIENTS) with the libraries built on PyMC (a few minutes, once)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(CLIENTS)/bin/python -m pip install --quiet -e '.[plots]' --group clients
	@touch $@

setup: $(VENV)/.ready  ## Set up .venv

compare: $(VENV)/.ready  ## Run the comparison of CONFIG (configs/mixture.yaml)
	@$(BIN)/python -m flows compare $(CONFIG)

validate: $(VENV)/.ready  ## Check CONFIG
	@$(BIN)/python -m flows validate $(CONFIG)

test: $(VENV)/.ready lint types  ## Lint, types, tests and the documentation's examples
	$(BIN)/python -m pytest -n auto

# What these, and the examples of docstrings, say does not depend on PyMC's version, or is said of it
# by the canaries, the steps, the conformance of each method and family, and the contract.
SAME_ON_ANY_PYMC := approximations callbacks comparison correction diagnostics flows objectives plots \
  tracking zoo test_api_docs.py test_code_blocks.py test_links.py test_shown.py test_progress.py \
  test_calibration.py test_promises.py test_interrupts.py \
  test_threads.py test_ends.py test_beginning_anew.py test_modes.py test_multistart.py test_recipes.py \
  test_refused_models.py test_rules_of_fits.py test_wheel.py engine/test_python_mode.py \
  engine/test_sobol.py data/test_order.py test_psis.py test_writing.py

test-latest: $(LATEST)/.ready  ## The tests on the newest PyMC, without pymc-extras
	$(LATEST)/bin/python -m pytest -n auto tests $(addprefix --ignore=tests/,$(SAME_ON_ANY_PYMC))

# Not what needs the other extras, as the iris data do. What Numba says of PyTensor 3.2's products is
# about their speed.
test-oldest: $(OLDEST)/.ready  ## The core's tests on the oldest dependencies
	$(OLDEST)/bin/python -m pytest -n auto $(addprefix --ignore=,$(NEEDS_EXTRAS)) \
	  -k 'not iris' -W 'ignore:np.dot() is faster on contiguous arrays'

test-clients: $(CLIENTS)/.ready  ## Fit models of Bambi, PyMC-Marketing, HSSM, pymc-extras and pymc-bart
	$(CLIENTS)/bin/python -m pytest -s tests/clients

bench-clients: $(CLIENTS)/.ready  ## Time them beside NUTS; writes docs/benchmarks
	$(CLIENTS)/bin/python -W ignore tests/benchmarks/libraries.py --out docs/benchmarks

bench-flows: $(VENV)/.ready  ## What flows cost beside vix.compare; writes docs/benchmarks
	$(BIN)/python tests/benchmarks/overhead.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

docs: $(VENV)/.ready  ## Build the documentation into docs/_build, and check its links and requests
	@rm -rf docs/api/generated
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	$(BIN)/python -m pytest -q -o addopts=--import-mode=importlib tests/site

bench: $(VENV)/.ready $(LATEST)/.ready  ## Time steps and fits beside every rival; writes docs/benchmarks
	$(BIN)/python tests/benchmarks/speed.py --out docs/benchmarks \
	  --latest-python $(LATEST)/bin/python $(BENCH)

bench-stopping: $(VENV)/.ready  ## Judge the stopping rules on traces and fits; writes docs/benchmarks
	$(BIN)/python tests/benchmarks/traces.py --out docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/stopping.py --out docs/benchmarks $(BENCH)

bench-accuracy: $(VENV)/.ready  ## Hold means and sds of default fits against the optimum; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/accuracy.py --out docs/benchmarks $(BENCH)

bench-rogues: $(VENV)/.ready  ## Fit what is most easily fitted wrong; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/gallery.py --out docs/benchmarks $(BENCH)

bench-trust: $(VENV)/.ready  ## Hold methods and NUTS against reference posteriors; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/trust.py --out docs/benchmarks $(BENCH)

bench-verdicts: $(VENV)/.ready  ## Hold verdicts on the rogues' gallery and the zoo against what is true; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/verdicts.py --out docs/benchmarks $(BENCH)

bench-processes: $(VENV)/.ready  ## Time whole processes beside every rival, cold and warm; writes docs/benchmarks
	$(BIN)/python tests/benchmarks/processes.py --out docs/benchmarks $(BENCH)

bench-kernels: $(VENV)/.ready  ## Run chains beside BlackJAX' from the same starts; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/kernels.py --out docs/benchmarks $(BENCH)

bench-large: $(VENV)/.ready  ## Time and memory of fits of 10^4 to 10^6 variables; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/large.py --out docs/benchmarks $(BENCH)

bench-leapfrogs: $(VENV)/.ready  ## Time chains by their number, on the device that JAX has; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/leapfrogs.py --out docs/benchmarks $(BENCH)

bench-families: $(VENV)/.ready  ## Judge the families on reference posteriors; writes docs/benchmarks
	$(BIN)/python -W ignore tests/benchmarks/families.py --out docs/benchmarks $(BENCH)

schema: $(VENV)/.ready  ## Write configs/schema.json from the code
	$(BIN)/python -m pymc_vi_ext.comparison.config configs/schema.json

constraints: $(VENV)/.ready  ## Pin the dependencies anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile -q --universal --no-annotate --no-header --upgrade \
	  pyproject.toml --extra all --group dev -o constraints.txt
	echo 'pymc>=6.4' | $(BIN)/uv pip compile -q --universal --no-annotate --no-header --upgrade \
	  pyproject.toml --extra flows --extra samplers --group dev -c - -o constraints-latest.txt
	$(BIN)/uv pip compile -q --universal --no-annotate --no-header --resolution lowest-direct \
	  pyproject.toml | $(BIN)/uv pip compile -q --universal --no-annotate --no-header --upgrade \
	  pyproject.toml --extra plots --group dev -c - -o constraints-oldest.txt

clean:
	rm -rf $(VENV) $(LATEST) $(OLDEST) $(CLIENTS) docs/_build .pytest_cache .mypy_cache .ruff_cache
