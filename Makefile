PYTHON ?= python3
# The build of torch to install; on a machine with a GPU the same version brings CUDA.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: quickstart test lint docs bench notebook release clean

quickstart: .venv/ready ## mine the embedded sample end to end and show the result
	$(BIN)/python recipes/bm25.py

# Two workers; with two threads each they would wait for each other.
test: lint ## lint, type check and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready ## ruff, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/ready ## build the documentation into build/site
	$(BIN)/python tools/stage_documents.py
	$(BIN)/zensical build --strict

bench: .venv/ready ## compare BM25 with bm25s on DATA, a BEIR folder (default: the embedded sample)
	$(BIN)/python benchmarks/bm25.py $(DATA)

notebook: .venv/ready ## run the notebooks and keep their outputs
	cd recipes && ../$(BIN)/jupyter execute --inplace hard_negatives.ipynb dynamic_negatives.ipynb

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

release: ## build and check the sdist and the wheel, and test the wheel in a new environment
	$(PYTHON) tools/release.py --torch $(TORCH)

clean: ## remove the environment
	rm -rf .venv
