# Two commands matter, and each works alone on a fresh machine: make demo, make test.

PYTHON ?= python3
# Installed first and pinned: with it in place nothing that follows downloads another torch,
# and the native extension is compiled against the very torch it will run under.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/cpu/*.cpp csrc/cuda/*.cu)

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-step bench-check gpu-proof sanitize lint format clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | \
		awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'

demo: $(STAMP) ## Tune two detectors on real pictures and write a report to runs/demo
	$(BIN)/stssad-fast demo --out runs/demo

test: lint ## Run every check that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: $(STAMP) ## Time the ops against eager PyTorch, torch.compile and kornia; update the README's table
	mkdir -p runs
	$(BIN)/python -m pytest bench/test_ops.py --benchmark-min-rounds=20 --benchmark-json=runs/bench.json
	$(BIN)/python bench/tables.py runs/bench.json

bench-step: $(STAMP) ## Time the exact second-order step against plain PyTorch and others; update the tables
	$(BIN)/python -m bench.step

bench-check: $(STAMP) ## Fail if an op is more than 15 % slower than at an earlier commit: BASE=COMMIT
	$(BIN)/python bench/check.py $(BASE)

# No .venv: on a bare machine, with the Python that has a torch with CUDA.
gpu-proof: ## Build, test, sanitize and time the GPU kernels in ten minutes; results in runs/gpu-proof
	$(PYTHON) bench/gpu_proof.py

# A copy of the package with an instrumented extension; what the sanitizers find ends the test.
SANITIZE := -fsanitize=address,undefined
sanitize: $(STAMP) ## Run the native ops' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r csrc kernels stssad_fast tests setup.py pyproject.toml README.md LICENSE build/sanitize
	find build/sanitize \( -name '*.so' -o -name '*.pyd' \) -delete
	cd build/sanitize && STSSAD_FAST_BUILD=cpu LDFLAGS='$(SANITIZE)' \
		CFLAGS='$(SANITIZE) -fno-sanitize-recover=undefined -g1' \
		$(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd build/sanitize && STSSAD_FAST_REQUIRE_NATIVE=1 OMP_NUM_THREADS=2 \
		LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:log_path=found UBSAN_OPTIONS=print_stacktrace=1:log_path=found \
		$(CURDIR)/$(BIN)/python -m pytest -q -n 2 tests/ops -k 'native or arguments or conv3x3' || \
		{ cat found.* >&2; exit 1; }

lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and everything that was built; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find stssad_fast \( -name '*.so' -o -name '*.pyd' \) -delete

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
		"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)' 'setuptools>=77' ninja
	@touch $@

$(STAMP): $(VENV)/.torch pyproject.toml setup.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]'
	@$(BIN)/python -c 'from stssad_fast.ops import extension; print("native extension:", extension.status())'
	@touch $@
