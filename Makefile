# The long-tail workbook. `make` alone prints help.

# What may be chosen. It reaches the program by the environment, and as it was typed: no shell and no make reads it.
CHOICES = PROFILE BACKBONES LOSSES SEEDS PROTOCOLS TRAIN_SETS JOBS LAUNCHER SLURM PAPERS LAB DEVICE CHECKPOINT_MINUTES THREADS
$(foreach name,$(CHOICES),$(eval override $(name) := $$(value $(name))))
export $(CHOICES)

# an environment that was not made to its end is made anew; CI, which has put the core there, says FRESH=:
FRESH ?= rm -rf .venv

# an active conda environment of the project's name is used as it is; otherwise .venv is made here
ifeq ($(CONDA_DEFAULT_ENV),longtail-workbook)
ENV := $(CONDA_PREFIX)
READY := build/.conda-ready
else
ENV := .venv
READY := .venv/.workbook-ready
endif
PY := $(ENV)/bin/python
# PYTHON if it is given, otherwise the first of these that is 3.11 or later
BASE_PYTHON = $(shell for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
WORKBOOK = "$(PY)" -m workbook

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export PYTHONUNBUFFERED = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# threads that wait for one another otherwise burn the core that the awaited one needs: beside another busy process, features of a
# frozen backbone took twenty times as long
export GOMP_SPINCOUNT = 2000

.DEFAULT_GOAL := help
.PHONY: help setup data runs runs-list tune logits notebooks figures html thesis book-pdf readme all papers bench lint test lab status clean lock

help: ## this help
	@echo "The long-tail workbook. Targets:"
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST)
	@echo "Choices, all optional:"
	@echo "  PROFILE=demo            one of: $(basename $(notdir $(wildcard profiles/*.toml))), or a TOML file of yours"
	@echo "  BACKBONES=\"a b\" LOSSES=\"a b\" SEEDS=\"0 1\" TRAIN_SETS=\"longtailed\"   instead of the profile's"
	@echo "  PROTOCOLS=\"standard standard_if50\"   the profile's, also at another imbalance factor"
	@echo "  JOBS=n                  runs at a time (default: one per core or GPU)   DEVICE=auto|cpu|cuda   CHECKPOINT_MINUTES=10"
	@echo "  LAUNCHER=slurm SLURM=\"partition=gpu minutes=600 gpus=1 cpus=4 memory_gb=32 concurrency=8\"   on a cluster"
	@echo "  PAPERS=\"pf_loss_full gbg_cifar100\"   the papers' profiles that make papers computes, here full ones for a GPU"
	@echo "  LAB=\"--no-browser --port=9999\"   further options of JupyterLab"
	@echo "  LTLIB_DATA=folder       data sets    LTLIB_WEIGHTS=folder   backbone weights    LTLIB_OUT=folder   all that is made"

setup: $(READY) ## make the environment (.venv), if it is not there

$(READY): requirements.lock pyproject.toml
ifeq ($(ENV),.venv)
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or later is needed$(if $(PYTHON),: PYTHON=$(PYTHON) is not one). Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -e $(READY) || $(FRESH)
	@test -e .venv || { echo "Making .venv with $(BASE_PYTHON): a few minutes, 5.5 GB"; "$(BASE_PYTHON)" -m venv .venv; }
	"$(PY)" -m pip install --quiet --no-compile --require-hashes -r requirements.lock
	@"$(PY)" -m compileall -q -j 0 .venv/lib > /dev/null || true  # on all cores; pip compiles on one
	"$(PY)" -m pip install -qq --no-deps --no-build-isolation -e .
else
	"$(PY)" -m pip install --quiet -e ".[workbook,cluster,dev]"
endif
	@mkdir -p $(dir $(READY)) && touch $(READY)

data: $(READY) ## look for (or download) the data and weights of PROFILE
	@$(WORKBOOK) data

runs: $(READY) ## compute the missing runs of PROFILE
	@$(WORKBOOK) runs

runs-list: $(READY) ## print a command for each missing run of PROFILE, for any scheduler
	@$(WORKBOOK) runs-list

tune: $(READY) ## try the rates that PROFILE lists, choose by validation accuracy, write what was tried
	@$(WORKBOOK) tune

logits: $(READY) ## keep the test logits of finished runs beside their records, as float16, for those who average
	@$(WORKBOOK) logits

notebooks figures: $(READY) ## runs, then execute the notebooks that are not fresh: figures and tables
	@$(WORKBOOK) notebooks

html: $(READY) ## a book of the notebooks, from the records that are there: nothing is trained
	@$(WORKBOOK) html

thesis: $(READY) ## a PDF of the results, chapter 5 of a thesis, from the records that are there (needs latexmk)
	@$(WORKBOOK) thesis

book-pdf: $(READY) ## a PDF of the whole book: prose, figures and tables (needs latexmk)
	@$(WORKBOOK) book-pdf

readme: $(READY) ## put the committed results into the README and docs/results.md
	@$(WORKBOOK) readme

all: $(READY) ## everything for PROFILE: runs, notebooks, figures, tables, HTML, PDF
	@$(WORKBOOK) all

papers: $(READY) ## PF-loss, ARConvL and GBG on Fashion-MNIST: runs of PAPERS and their notebooks (two cores: about three hours)
	@$(WORKBOOK) papers

bench: $(READY) ## what things cost here: losses, batches, training steps; on a GPU also utilisation and hours
	@$(WORKBOOK) bench

status: $(READY) ## what is done, missing, stale
	@$(WORKBOOK) status

lab: $(READY) ## open the notebooks in JupyterLab
	@$(WORKBOOK) lab

lint: $(READY) ## what can be seen without running: style, docstrings, types of the public API, walls between modules, clean notebooks
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy
	"$(ENV)/bin/lint-imports" --no-cache
	"$(PY)" -m nbstripout --verify notebooks/*.ipynb

test: lint ## lint, unit tests, the pipeline end to end in the smoke profile; FAST=1: the quick ones alone, in two minutes
# more processes than two cores need, since many tests wait: for processes, SLURM, a browser
	"$(PY)" -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(if $(FAST),-m "not slow" --no-cov,)

lock: $(READY) ## compile requirements.lock and environment.yml from pyproject.toml (newest versions)
	"$(PY)" -m workbook.lock

clean: ## remove what smoke and demo made, and executed notebooks; records, figures and features of real profiles stay
	rm -rf build/smoke build/demo build/cache/pretrained build/*/notebooks build/*/html build/*/thesis
	rm -rf results/smoke results/smoke.csv results/demo results/demo.csv figures/smoke figures/demo
