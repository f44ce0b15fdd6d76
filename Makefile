# One command per job, the same at the desk and in CI. Another Python: PYTHON=python3.12 make lab

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
SET_UP := $(PYTHON) scripts/set_up.py

.DEFAULT_GOAL := help
.PHONY: help set-up ready python lab dashboard demo test test-slow fuzz mutation lint format bench bundle families pictures clean storm docs docs-serve plots dist

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

set-up: python  ## make or update .venv with everything (the other targets do it by themselves)
	@$(SET_UP) --tests

ready: python  # what the explorer needs; not dask, which xarray imports where it is there (0.6 s)
	@$(SET_UP)

python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Python 3.11 or newer is needed."; \
	  echo "Install it, or name another: PYTHON=python3.12 make lab"; exit 1; }

lab: ready  ## open the first notebook in JupyterLab (PORT=8888, ARGS="--no-browser")
	@$(BIN)/explorer lab $(if $(PORT),--port $(PORT)) $(ARGS)

dashboard: ready  ## show the explorer alone in a browser (PORT=8888, ARGS="vit-digits --no-browser")
	@$(BIN)/explorer dashboard $(if $(PORT),--port $(PORT)) $(ARGS)

demo: ready  ## sweep the bundled stack, print the table, write report.html and netCDF
	@$(BIN)/explorer report fcn3x256-digits --out explorer-demo $(ARGS)

test: set-up  ## all checks: style, types, kernels without the compiler, every test but the slow ones
	@$(SET_UP) --tests --browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q tests/test_kernels.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: set-up  ## the tests that take long
	@$(SET_UP) --tests --browser
	$(BIN)/python -m pytest -m slow $(ARGS)

storm: set-up  ## random clicks, reloads and restarts in a browser (ARGS="--minutes 60 --seed 1")
	@$(SET_UP) --tests --browser
	nice $(BIN)/python -m tests.browser.storm $(ARGS)

fuzz: set-up  ## look for files that break a reader (ARGS="--minutes 30 --targets pickle,index")
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	nice $(BIN)/python -m tests.fuzz.run $(ARGS)

mutation: set-up  ## change the code and see which tests notice (ARGS="--sample 300 --seed 0"; first --record)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[mutation]"
	nice $(BIN)/python -m tests.mutation.run $(ARGS)

lint: set-up  ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: set-up  ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: set-up  ## run the benchmarks
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

bundle: set-up  ## retrain the bundled stacks from their recipes (ARGS=NAME for one) and write the manifest
	$(BIN)/python scripts/bundle.py $(ARGS)

families: set-up  ## write docs/families.md from the families and bundled stacks
	$(BIN)/python scripts/families_page.py

pictures: set-up  ## draw the README's, the tutorial's and the notebooks' pictures (needs a Chromium)
	@$(SET_UP) --tests --browser
	$(BIN)/python scripts/readme_plot.py
	$(BIN)/python scripts/readme_capture.py
	$(BIN)/python -m scripts.docs.screenshots
	$(BIN)/python scripts/notebook_pictures.py
	$(BIN)/python scripts/panel_pictures.py

docs: set-up  ## build the documentation site into build/site; a warning is an error
	$(BIN)/python -m scripts.docs.build $(ARGS)

docs-serve: docs  ## build the site and show it (PORT=8000)
	$(BIN)/python -m http.server $(or $(PORT),8000) --bind 127.0.0.1 --directory build/site

plots: set-up  ## draw the plots of docs/benchmarks.md from the tables in benchmarks/results
	$(BIN)/python -m scripts.docs.plots

dist: set-up  ## build the files of a release, sdist and wheel, into dist/
	rm -rf dist
	$(BIN)/hatchling build

clean:  ## remove caches and results; .venv stays
	rm -rf build dist explorer-demo test-artifacts
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find explorer scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
