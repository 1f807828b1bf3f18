# `make demo` and `make test` need Python >= 3.11 and nothing else: they build .venv on first use.
# Every path is relative, so that the clone may lie anywhere.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo study evidence test test-all test-versions test-installs lint format docs ports vectors zoo bench gpu
.PHONY: gpu-static clean

PY := .venv/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt
PORTS := .venv-ports/bin/python
# Of the machine with the GPU, which has everything already.
GPU_PYTHON ?= python3
TOOLS := .venv-tools/bin/python
ZOO := .venv-zoo/bin/python

# What is tested is this folder, whatever the caller's shell puts in front of it.
unexport PYTHONPATH PYTHONHOME
# Our texts are UTF-8 in whatever language the machine is set to.
export PYTHONUTF8 := 1
# Otherwise pyright asks the network for its newest version at each run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1@\2/p' Makefile | awk -F@ '{printf "%-19s %s\n", $$1, $$2}'

demo: .venv/.demo  ## train on handwritten digits with and without GC: make demo ARGS="--backend torch"
	$(PY) -m examples.digits $(ARGS)

study: .venv/.demo  ## train the digits in many settings with and without GC, seed by seed, into runs/study
	$(PY) -m examples.study $(ARGS)

evidence: .venv/.evidence  ## train real images and text with and without GC, and go on where it ended: make evidence DATA=folder
	$(PY) -m examples.evidence --data "$(DATA)" $(ARGS)

test: lint  ## everything that must hold: lint, types, tests, doctests, the code in README and docs
	$(PY) -m pytest -n 2 $(ARGS)

test-all: test .venv-tools/.ready  ## the same, and the examples in large tools: Trainer, Accelerate, Lightning, Keras
	$(TOOLS) -m pytest -o filterwarnings=default examples/tools/test_heavy.py

test-versions: .venv/.demo  ## run the tests with other releases, from the oldest on, and write docs/versions.md
	$(PY) -m tests.versions $(ARGS)

test-installs: .venv/.demo  ## install each extra on each route into an empty environment, and take a first step
	$(PY) -m tests.versions.installs $(ARGS)

lint: .venv/.dev  ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

format: .venv/.dev  ## apply the style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: .venv/.dev  ## build the site: open docs/_build/html/index.html
	$(PY) -m sphinx -W --keep-going -n -E -q -j 2 -b html docs docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

ports: .venv-ports/.ready  ## hold public libraries to the suite, and write docs/ports.md: make ports ARGS="--profile quick"
	$(PORTS) -m examples.ports $(ARGS)

vectors: .venv/.dev  ## pack the test vectors for a release: dist/gc-vectors-N.tar.gz, N being their own version
	$(PY) -m gc_conformance vectors write --pack dist

zoo: .venv-zoo/.ready  ## compare what layers, programs and numbers say of many models, and write docs/zoo.md: make zoo ARGS="timm"
	$(ZOO) -W ignore -m examples.zoo $(ARGS)

bench: .venv/.dev  ## measure steps on this CPU beside the fastest without GC: make bench ARGS="--parts resnet50"
	$(PY) -m benchmarks.torch_cpu $(ARGS)
	$(PY) -m benchmarks.torch_attach
	$(PY) -m benchmarks.jax_step
	$(PY) -m benchmarks.plan_time
	$(PY) -m benchmarks.jax_plan_time
	$(PY) -m benchmarks.import_time

gpu:  ## judge and measure every backend on a GPU, under 9 minutes; installs nothing: make gpu GPU_PYTHON=python3
	PYTHONPATH=.:backends:conformance $(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

gpu-static: .venv/.dev  ## compute what a step costs on a GPU from its machine code, without one; some minutes
	GC_DEVICE=cuda $(PY) -m benchmarks.gpu_static $(ARGS)

clean:  ## remove .venv and everything built; runs/ stays
	rm -rf .venv .venv-ports .venv-tools .venv-versions .venv-zoo build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all: installs only add to it, and are repeated when what they read has changed.

.venv/.demo: .venv/.build
	$(PIP) --no-build-isolation --editable '.[examples]'
	@touch $@

.venv/.evidence: .venv/.build
	@echo "Installing PyTorch: once, a few minutes"
	$(PIP) --no-build-isolation --editable '.[examples,torch]'
	@touch $@

.venv/.dev: .venv/.build
	@echo "Installing PyTorch, JAX, CuPy and the checks: once, several minutes"
	$(PIP) --no-build-isolation --editable '.[torch-fast,jax,conformance,examples]' --group dev
	@touch $@

.venv/.build: pyproject.toml constraints.txt
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    echo "Making .venv with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear .venv; \
	  done; \
	  echo "No Python >= 3.11 with the venv module was found (tried: $(PYTHON) python3 python3.13 python3.12 python3.11)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; }
	$(PIP) 'pip>=25.1' hatchling  # which knows dependency groups
	@touch $@

# Libraries that we do not depend on live in an environment of their own.
.venv-ports/.ready: .venv/.build examples/ports/requirements.txt examples/ports/without_dependencies.txt
	$(PY) -m venv --clear .venv-ports
	$(subst $(PY),$(PORTS),$(PIP)) hatchling
	$(subst $(PY),$(PORTS),$(PIP)) --no-build-isolation --editable '.[conformance]' --requirement examples/ports/requirements.txt
	$(subst $(PY),$(PORTS),$(PIP)) --no-deps --requirement examples/ports/without_dependencies.txt
	@touch $@

.venv-tools/.ready: .venv/.build examples/tools/requirements.txt
	$(PY) -m venv --clear .venv-tools
	$(subst $(PY),$(TOOLS),$(PIP)) hatchling
	$(subst $(PY),$(TOOLS),$(PIP)) --no-build-isolation --editable '.[torch-fast,jax]' --requirement examples/tools/requirements.txt
	@touch $@

# Of their own versions, without our constraints: torchvision is built for one of PyTorch. Large: a CUDA build.
.venv-zoo/.ready: .venv/.build examples/zoo/requirements.txt
	$(PY) -m venv --clear .venv-zoo
	$(ZOO) -m pip install --disable-pip-version-check hatchling
	$(ZOO) -m pip install --disable-pip-version-check --no-build-isolation --editable . --requirement examples/zoo/requirements.txt
	@touch $@
