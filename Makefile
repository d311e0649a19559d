# Every target sets up what it needs: on a fresh machine, `make test` is the first command to type.
#
#   make setup       virtual environment in .venv, pinned dependencies, SIGE in editable mode
#   make test        the tests; GPU tests skip where there is no GPU
#   make test-fast   ops on the reference, tiny models, structure, requests: under a minute on two cores
#   make test-oldest the same with the oldest versions that pyproject.toml allows, in .venv-oldest
#   make lint        ruff, mypy, clang-format; the editor's types where node and TypeScript are there
#   make cuda-check  every CUDA kernel through nvcc, warnings are errors; rules for the machine code (needs no GPU)
#   make sanitize    the op tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make fuzz        damaged and hostile inputs for every reader and command line; SECONDS=600 SEED=0
#   make kills       commands that are killed at random moments lose no file; KILLS=100
#   make edit        the editor, in the browser where there is one; ARGS="--port 8000"
#   make demo        three edits by the embedded model, dense and sparse, as one picture in out/demo
#   make bench       every benchmark, as tables and as JSON in out/bench
#   make clean       remove what was built

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PINS   := constraints.txt
TESTS  ?= tests

# pip's build and ours use one ninja: where the system has another, its log is of no use and everything compiles twice.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup build test test-fast test-oldest lint cuda-check sanitize fuzz kills edit demo bench clean

setup: build

$(VENV)/.installed: pyproject.toml $(PINS)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(PINS) torch setuptools ninja pybind11
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(PINS) --no-build-isolation -e '.[dev]'
	@touch $@

# ninja compiles only what changed; pip's editable install would not notice a changed kernel.
build: $(VENV)/.installed
	@$(PY) setup.py --quiet build_ext --inplace

# A process for each core and one thread in each; a file's tests stay together, they share their models. The longest
# files begin (tests/conftest.py), so that no core waits for the other at the end.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder
test: build
	$(PYTEST) $(TESTS)

FAST := ops models sdxl/test_request.py sdxl/test_settings.py sdxl/test_masks.py test_schedule.py test_structure.py \
        test_region.py test_gather_map.py
test-fast: build
	$(PYTEST) -q -m fast $(addprefix tests/,$(FAST))

# It leaves libraries built against the oldest torch, which serve every later one, until the next build.
test-oldest:
	$(MAKE) test VENV=.venv-oldest PINS=constraints-oldest.txt

lint: build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	tools/check_js.sh
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files '*.cpp' '*.cu' '*.h' '*.cuh')

cuda-check: $(VENV)/.installed
	$(PY) tools/cuda_check.py

SANITIZED := $(CURDIR)/build/sanitize
# Each path through the code once, for the emulated tensor cores are slow here: no second run of the same inputs, and for
# attention no second dtype of 16 bits. row_product's plan takes two of three tiles for the shapes of the other tests.
REPEATED := same_input or large_scores or (both_products and own) or (test_tensor_attention and bf16)
SANITIZE_TESTS := (native or shim or (every_tile and fp16 and 3-2)) and not (opcheck or compiles or $(REPEATED))
sanitize: build
	$(PY) tools/native_build.py --target cpu --sanitize --out $(SANITIZED)
	$(PY) tools/native_build.py --target shim --sanitize --out $(SANITIZED)/shim
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:protect_shadow_gap=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2 SIGE_SHIM_ORDER=7 \
	SIGE_LIBRARIES=$(SANITIZED) SIGE_SHIM_LIBRARY=$(SANITIZED)/shim/libsige_shim.so \
	$(PY) -m pytest -n auto tests/ops -k "$(SANITIZE_TESTS)"

SECONDS ?= 600
SEED ?= 0
fuzz: build
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) --out out/fuzz

KILLS ?= 100
kills: build
	OMP_NUM_THREADS=1 $(PY) -m tests.kills --kills $(KILLS) --seed $(SEED)

edit: build
	$(PY) -m sdxl.serve --open $(ARGS)

demo: build
	$(PY) -m sdxl.demo --out out/demo

bench: build
	$(PY) -m benchmarks --out out/bench

clean:
	rm -rf build out dist *.egg-info sige/lib sige/*.so
