# Every command makes .venv and installs into it first, if that was not done yet. PYTHON picks the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_PROCESSES ?= 2
# The lock holds versions that no longer support Python 3.10; there the floors of setup.py decide.
LOCK := $(shell $(PYTHON) -c "import sys; print('--constraint requirements.lock' if sys.version_info >= (3, 11) else '')")

.PHONY: install demo test check format schemas lock docs clean

install: $(STAMP)

$(STAMP): setup.py pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet $(LOCK) --editable ".[train,peers,dev,docs]"
	touch $@

# Real H.264 clips, ReViT-TimeSformer, token-length labels, the assigner, the report, one clip classified.
demo: install
	$(BIN)/python tools/train_net.py --cfg configs/video/demo.yaml
	$(BIN)/python tools/report.py runs/demo --html runs/demo/report.html
	$(BIN)/python tools/predict.py --checkpoint runs/demo/checkpoint.safetensors $$(ls runs/demo/data/test/grow/*.mp4 | head -n 1)

# Files run side by side, each process with one thread: most tests are too small to use more.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Shows the pages of docs/ at http://127.0.0.1:8000, and changes to them as they are made.
docs: install
	$(BIN)/python -m mkdocs serve

# The JSON schemas that editors read beside a configuration; a test compares them with the options.
schemas: install
	for kind in image video asvit_search; do $(BIN)/python tools/train_net.py --schema $$kind > common/config/schemas/$$kind.json || exit 1; done

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The exact versions the tests passed with, written from this environment's own resolver.
lock: install
	$(BIN)/python -m piptools compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
		--no-annotate --extra train --extra peers --extra dev --extra docs --output-file requirements.lock setup.py

clean:
	rm -rf $(VENV) build *.egg-info
