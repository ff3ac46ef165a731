# make setup   .venv with the classic OpenMMLab stack (the first time 15 to 30 minutes, then seconds)
#              SETUP_ARGS=--cpu: without operators for the GPU that is there; remembered (--auto undoes it)
# make demo    trains, tests and draws HTC++ with a small SwinV2 on a small instance data set
# make demo-seg  trains, tests and draws UperNet with a small SwinV2 on a small data set in ADE20K's format
# make demo-cls  trains small classifiers with two position biases, tests both at larger windows and draws the curves
# make demo-simmim  pre-trains a small SwinV2 by SimMIM, draws reconstructions and fine-tunes it on few labels
# make demo-video  trains a small SwinV2 on stills, inflates it, trains it on clips, tests it with frames in order and shuffled
# make test    the tests; make test-slow: the long ones
# make setup-onedl, make test-onedl   the same in .venv-onedl, with the maintained forks
# make test-core  the tests that need torch alone; CORE_PYTHON=FILE: with another Python, that has requirements/core.txt
# make lint    ruff, then mypy; both can have CORE_PYTHON
# make docs    the documentation as a site, build/docs/index.html; a link or reference that leads nowhere is an error
PYTHON ?= python3
SETUP_ARGS ?=
BIN := .venv/bin
ONEDL := .venv-onedl/bin
PYTEST := -q -n 2 --dist loadfile --no-loadscope-reorder
CORE_PYTHON ?= $(BIN)/python
export PATH := $(CURDIR)/$(BIN):$(PATH)

# what is passed on to demo-cls: DEMO_ARGS='--seed 1', '--fashion-mnist FOLDER', '--photographs'
DEMO_ARGS ?=
.PHONY: setup setup-onedl demo demo-seg demo-cls demo-simmim demo-video test test-onedl test-core test-slow lint docs clean

setup:
	@$(PYTHON) tools/setup_env.py --stack classic $(SETUP_ARGS)

setup-onedl:
	@$(PYTHON) tools/setup_env.py --stack onedl $(SETUP_ARGS)

demo: setup
	@$(BIN)/python demos/demo.py

demo-seg: setup
	@$(BIN)/python demos/demo_seg.py

demo-cls: setup
	@$(BIN)/python demos/demo_cls.py $(DEMO_ARGS)

demo-simmim: setup
	@$(BIN)/python demos/demo_simmim.py $(DEMO_ARGS)

demo-video: setup
	@$(BIN)/python demos/demo_video.py $(DEMO_ARGS)

test: setup
	$(BIN)/python -m pytest $(PYTEST)

test-onedl: setup-onedl
	PATH=$(CURDIR)/$(ONEDL):$$PATH $(ONEDL)/python -m pytest $(PYTEST)

test-core: $(if $(filter $(BIN)/python,$(CORE_PYTHON)),setup)
	PYTHONPATH=$(CURDIR) $(CORE_PYTHON) -m pytest $(PYTEST) -m core

test-slow: setup
	$(BIN)/python -m pytest -q -m slow -o timeout=2400 -o faulthandler_timeout=2700

lint: $(if $(filter $(BIN)/python,$(CORE_PYTHON)),setup)
	$(CORE_PYTHON) -m ruff check .
	$(CORE_PYTHON) -m mypy

docs: setup
	@$(BIN)/python -m pip --disable-pip-version-check install -q -r requirements/docs.txt
	$(BIN)/python -m sphinx -W --keep-going -n -q -c docs . build/docs

clean:
	rm -rf work_dirs data build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
