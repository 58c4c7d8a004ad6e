# Couplet: one-word commands. `make run` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed

.PHONY: setup run test test-slow test-gpu check bench bench-gpu chaos golden docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py couplet/__init__.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Couplet needs Python >= 3.11, found " + sys.version.split()[0] + "; name another with make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

run: setup            ## train the tiny model: tune, reinforce, evaluate
	$(PY) launch.py

test: setup           ## quick tests and the tests that share one Ray
	$(PY) -m pytest -m "not slow and not gpu" -n 2

test-slow: setup      ## soaks, several seeds, every ZeRO stage, a second user
	$(PY) -m pytest -m "slow"

test-gpu: setup       ## the tests that need a CUDA device
	$(PY) -m pytest -m "gpu"

check: setup          ## formatter, linter, types, the import table, the words of the glossary, unused code
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	@$(PY) -m tests.type_links
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_import_table.py
	$(PY) -m tests.glossary
	$(PY) -m tests.unused

bench: setup          ## every part measured on this machine, and docs/performance.md (minutes)
	$(PY) -m benchmarks

bench-gpu:            ## the 7B shape on one CUDA device; any Python with torch and transformers will do: make PY=python3 bench-gpu
	$(PY) -m benchmarks gpu

chaos: setup          ## kill and hang every process of a run for 14 minutes: make chaos SEED=1 OUT=folder
	$(PY) -m couplet.studies.chaos --seed $(or $(SEED),0) --minutes $(or $(MINUTES),14) --out $(or $(OUT),runs/studies/chaos)

golden: setup         ## regenerate tests/golden (explain a change in the commit)
	$(PY) -m tests.golden

docs: setup           ## regenerate docs/configuration.md, docs/metrics.md and the tables of docs/reliability.md
	$(PY) -m couplet.configs.reference
	$(PY) -m couplet.data.metric_table
	$(if $(wildcard docs/chaos*.json),$(PY) -m couplet.studies.chaos --render $(wildcard docs/chaos*.json))

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache
