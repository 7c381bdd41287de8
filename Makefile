# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
ARGS ?=

# torch comes first, by itself: with none installed, the package's own `torch>=…` would let pip pick
# the newest build, which may bring gigabytes of CUDA packages that a laptop does not need. Where your
# package index has CPU builds apart, name one: make demo TORCH="torch==2.13.0+cpu --index-url …".
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e ".[$(1)]"
endef

.PHONY: demo test test-all lint docs gallery mutants install-dev clean

demo:
	$(call install,demo)
	$(BIN)/otreg demo $(ARGS)

install-dev:
	$(call install,dev)

# A process a core, of one thread each. What takes long by itself is marked slow: test-all runs that, too.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: install-dev
	$(PYTEST) -m "not slow" $(ARGS)

test-all: install-dev
	$(PYTEST) $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; a warning is an error. The variable keeps mkdocs-material's notice of its own future quiet.
docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Pictures of a finished demo for the site: make gallery RESULTS=demo-out/results.json
RESULTS ?= demo-out/results.json
gallery: install-dev
	$(BIN)/python docs/gallery.py $(RESULTS)

mutants: install-dev
	$(BIN)/python benchmarks/mutants.py $(ARGS)

clean:
	rm -rf $(VENV) demo-out runs mutants site
