# make setup   .venv with the classic OpenMMLab stack (the first time 15 to 30 minutes, then seconds)
# make demo    trains, tests and draws HTC++ with a small SwinV2 on a small instance data set
# make demo-seg  trains, tests and draws UperNet with a small SwinV2 on a small data set in ADE20K's format
# make test    the tests; make test-slow: the long ones
# make lint    ruff
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo demo-seg test test-slow lint clean

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	@$(BIN)/python tools/demo.py

demo-seg: setup
	@$(BIN)/python tools/demo_seg.py

test: setup
	$(BIN)/python -m pytest -q

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

lint: setup
	$(BIN)/ruff check .

clean:
	rm -rf work_dirs data build *.egg-info .pytest_cache .ruff_cache .hypothesis
