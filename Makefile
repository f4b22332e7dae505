PYTHON ?= python3
# The build of torch to install; on a machine with a GPU the same version brings CUDA.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: quickstart test lint test-lowest lock-lowest docs bench notebook release clean

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

# Old releases warn about calls that newer releases of others deprecate.
test-lowest: .venv-lowest/ready ## run the tests with the lowest supported versions, constraints-lowest.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
		-W ignore::DeprecationWarning

lock-lowest: ## write constraints-lowest.txt from the lower bounds in pyproject.toml
	$(PYTHON) tools/lock_lowest.py

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

# The file has all packages that are needed besides torch, so pip resolves nothing and leaves torch alone.
.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q $(TORCH)
	.venv-lowest/bin/python -m pip install -q --no-deps -r constraints-lowest.txt
	.venv-lowest/bin/python -m pip install -q --no-deps -e .
	.venv-lowest/bin/python -m pip check
	touch $@

release: ## build and check the sdist and the wheel, and test the wheel in a new environment
	$(PYTHON) tools/release.py --torch $(TORCH)

clean: ## remove the environments
	rm -rf .venv .venv-lowest
