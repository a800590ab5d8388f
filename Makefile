# The two commands of the README, and what a developer needs beside them.
#   make replay [TRACE=path] [ARGS="..."]   replay a trace of requests and write an HTML report
#   make test                               build everything and pass every test
# `make help` lists the rest.

JOBS ?= $(shell nproc)
OUT ?= out
TRACE ?=
ARGS ?=
TRUNKLINE = build/release/tools/trunkline

# Cases that are too large to run under a sanitizer carry Large in their name.
SANITIZER_FILTER = -*Large*
# The programs in which threads run side by side.
THREADED = exec grids forest tools_common

# The Python module is built and tested with this interpreter's version, in an environment of its own.
# PYTHON_EXTRA="torch transformers==5.23" adds what the tests of those need; without, they skip.
PYTHON ?= python3
PYTHON_EXTRA ?=
PYTHON_ENV = build/python/venv
# 1 leaves Python out of `make test`, for a machine that reaches no package index.
TRUNKLINE_NO_PYTHON ?=

.PHONY: help setup build replay test test-release test-asan test-tsan test-python test-python-built bench lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: ## install or name the packages that are missing
	@scripts/setup.sh

build: setup ## build the library and the command
	@cmake --preset release -Wno-dev >/dev/null
	@cmake --build --preset release -j $(JOBS) --target trunkline trunkline_command

replay: build ## replay TRACE (a small generated one by default) and write out/replay.html
	@mkdir -p $(OUT)
ifeq ($(strip $(TRACE)),)
	@$(TRUNKLINE) trace generate --num-groups 4 --prompts-per-group 16 --system-prompt-len 2048 --question-len 256 \
	  --output-len 64 --seed 1 --out $(OUT)/generated_trace.jsonl
	@$(TRUNKLINE) replay $(OUT)/generated_trace.jsonl --json $(OUT)/replay.json $(ARGS)
else
	@$(TRUNKLINE) replay $(TRACE) --json $(OUT)/replay.json $(ARGS)
endif
	@$(TRUNKLINE) report $(OUT)/replay.json -o $(OUT)/replay.html
	@echo "Report: $(OUT)/replay.html"

test: setup test-release test-asan test-tsan test-python ## build and pass every test, sanitizers included
	@echo "All tests passed$(if $(filter 1,$(TRUNKLINE_NO_PYTHON)),; those of Python were left out)."

# With the CUDA backends wherever a toolkit is installed; tests that need a device skip where there is none.
test-release:
	cmake --preset release -Wno-dev -DTRUNKLINE_CUDA=AUTO >/dev/null
	cmake --build --preset release -j $(JOBS)
	ctest --preset release -j $(JOBS)

test-asan:
	cmake --preset asan -Wno-dev >/dev/null
	cmake --build --preset asan -j $(JOBS)
	GTEST_FILTER='$(SANITIZER_FILTER)' ctest --preset asan -j $(JOBS)

test-tsan:
	cmake --preset tsan -Wno-dev >/dev/null
	cmake --build --preset tsan -j $(JOBS) --target $(THREADED:%=test_%)
	GTEST_FILTER='$(SANITIZER_FILTER)' ctest --preset tsan -j $(JOBS) -R '^($(subst $() ,|,$(THREADED)))$$'

test-python: ## build the Python module and pass its tests; its packages come from a package index
ifeq ($(TRUNKLINE_NO_PYTHON),1)
	@echo "TRUNKLINE_NO_PYTHON=1: the Python module is not built or tested."
else
	@[ -x $(PYTHON_ENV)/bin/pip ] || $(PYTHON) -m venv $(PYTHON_ENV)
	@$(PYTHON_ENV)/bin/pip install -q --disable-pip-version-check -r python/test-requirements.txt $(PYTHON_EXTRA) || \
	  { echo "The Python module's packages could not be installed. Without a package index: make test TRUNKLINE_NO_PYTHON=1" >&2; \
	    exit 1; }
	@$(MAKE) --no-print-directory test-python-built
endif

test-python-built:
	cmake -S . -B build/python -G Ninja -Wno-dev -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON_ENV)/bin/python \
	  -DTRUNKLINE_PYTHON=ON -DTRUNKLINE_TOOLS=OFF -DTRUNKLINE_TESTS=OFF -DTRUNKLINE_BENCHMARKS=OFF >/dev/null
	cmake --build build/python -j $(JOBS) --target trunkline_python_stub
	PYTHONPATH=build/python/python $(PYTHON_ENV)/bin/python -m pytest -q -rs tests/python

bench: ## run the Google Benchmark programs
	cmake --preset release -Wno-dev >/dev/null
	cmake --build --preset release -j $(JOBS)
	@for program in build/release/bench/*_bench; do $$program || exit 1; done

lint: ## clang-format and clang-tidy, both pinned (pip install -r scripts/lint-requirements.txt)
	scripts/lint.sh

format: ## rewrite the sources with the pinned clang-format
	git ls-files '*.cpp' '*.hpp' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	rm -rf build $(OUT)
