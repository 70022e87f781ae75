# On a bare machine with Python >= 3.10 and a C/C++ compiler: `make demo` and `make test`.
# Each sets up .venv itself; later calls reuse it, and install again when one of $(INSTALLED_FROM) changes.
#
#   PYTHON=python3.12    another interpreter
#   PIP_FLAGS=...        more options for pip install; constraints.txt shows the one that avoids CUDA on Linux

PYTHON ?= python3
PIP_FLAGS ?=

BIN := .venv/bin
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
INSTALLED_FROM := pyproject.toml constraints.txt runtime/CMakeLists.txt $(wildcard runtime/*.c runtime/*.h)
MYPY := ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
INSTALL := CMAKE_BUILD_PARALLEL_LEVEL=$(CORES) $(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable

.PHONY: demo test lint docs bench results clean

demo: .venv/demo.stamp
	$(BIN)/edgesteer demo

# Threads that wait must not spin: with the cores shared, as in CI, they take the time of those that work.
test: export OMP_WAIT_POLICY = PASSIVE
test: lint
	$(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder

lint: .venv/dev.stamp build/typing
	$(BIN)/ruff check .
	cd build/typing && $(MYPY) -p edgesteer && $(MYPY) ../../bench/*.py

docs: .venv/dev.stamp
	$(BIN)/python -m edgesteer.cli.reference > build/cli.md
	mv build/cli.md docs/cli.md

bench: .venv/dev.stamp
	@for claim in decode prefill first_token memory export batch serve llama_bench; do $(BIN)/python bench/$$claim.py || exit 1; done

# DATA is a folder of labelled texts for the judges; see bench/results.py. Takes an estimated four hours.
results: .venv/dev.stamp
	$(BIN)/python bench/results.py --data "$(DATA)"

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache

.venv/demo.stamp: $(INSTALLED_FROM) | $(BIN)/pip
	$(INSTALL) ".[export,demo]"
	@touch $@

.venv/dev.stamp: $(INSTALLED_FROM) | $(BIN)/pip
	$(INSTALL) ".[dev]"
	@touch $@

# pip is what venv installs last: without it the folder is half made, and making it again mends it.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("edgesteer needs Python >= 3.10, but " \
	    "$(PYTHON) is %d.%d. Run: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

# mypy does not see that export/, runtime/ and models/ are packages of edgesteer; in this mirror they are.
.PHONY: build/typing
build/typing:
	@rm -rf $@ && mkdir -p $@/edgesteer
	@ln -s $(CURDIR)/edgesteer/* $(CURDIR)/export $(CURDIR)/runtime $(CURDIR)/models $@/edgesteer/
