# `make` alone lists what there is. demo and test need nothing before them but Python 3.10 to 3.13, and change nothing
# outside this folder; only link and unlink (and their -compat twins) touch your own Ikomia folder.

VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
SOURCES := resnetkit infer_resnet train_resnet compat tests scripts examples benchmarks soak

# The others are imported by these.
BENCHMARKS := $(filter-out %/photographs.py %/tables.py %/training_runs.py %/inference_runs.py %/installation.py,$(wildcard benchmarks/*.py))

# What demo, test and bench write stays in build/, temporary files and torch's downloads included.
ISOLATED := TMPDIR=$(CURDIR)/build/tmp HOME=$(CURDIR)/build/home IKOMIA_AUTO_COMPLETION=0

.DEFAULT_GOAL := help
.PHONY: help setup link unlink link-compat unlink-compat demo test lint format bench notebooks pictures soak audit dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.requirements ## Make the environment that the plugins need, in .venv

link: ## Link both plugins into your Ikomia folder
	$(if $(wildcard $(PY)),$(PY),python3) scripts/link_plugins.py

unlink: ## Remove these links
	$(if $(wildcard $(PY)),$(PY),python3) scripts/link_plugins.py --remove

link-compat: ## Link the second names infer_torchvision_resnet and train_torchvision_resnet
	$(if $(wildcard $(PY)),$(PY),python3) scripts/link_plugins.py --compat

unlink-compat: ## Remove the second names
	$(if $(wildcard $(PY)),$(PY),python3) scripts/link_plugins.py --compat --remove

demo: $(VENV)/.requirements isolated ## Train on 1,797 handwritten digits and classify the held-out ones (2 minutes)
	$(PY) scripts/link_plugins.py --home build/home
	$(ISOLATED) $(PY) examples/demo.py

# Several processes test side by side: a thread that waits for another lets go of its core.
test: $(VENV)/.requirements-dev isolated ## Run all tests
	$(ISOLATED) OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest $(ARGS)

lint: $(VENV)/.requirements-dev ## Check format, style and types
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m mypy

format: $(VENV)/.requirements-dev ## Lay out the code as lint wants it
	$(PY) -m ruff check --select I --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

bench: $(VENV)/.requirements-dev isolated ## Measure every claim again (on a quiet machine)
	$(PY) scripts/link_plugins.py --home build/home
	set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(ISOLATED) $(PY) $$script; done

notebooks: $(VENV)/.requirements-dev isolated ## Run the notebooks and store them with what they show (on a quiet machine)
	$(ISOLATED) $(PY) scripts/run_notebooks.py $(ARGS)

pictures: notebooks demo ## Make all pictures of docs/images anew, those of the notebooks included (10 minutes)
	$(ISOLATED) $(PY) scripts/make_pictures.py
	$(PY) scripts/make_form_pictures.py
	$(PY) scripts/make_speed_picture.py

soak: $(VENV)/.requirements-dev isolated ## Try every claim of docs/RELIABILITY.md again (45 minutes; ARGS=kills for one)
	$(PY) scripts/link_plugins.py --home build/home
	$(ISOLATED) $(PY) -m soak $(ARGS)

audit: $(VENV)/.requirements-dev ## Look the installed packages up in a list of known vulnerabilities (needs the network)
	$(PY) scripts/audit.py

dist: ## Pack one zip a plugin, as the hub installs it, into dist/
	$(if $(wildcard $(PY)),$(PY),python3) scripts/make_dist.py

clean: ## Remove all that the other targets made, the environment included
	rm -rf build demo dist infer_resnet/vendor train_resnet/vendor $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: isolated
isolated:
	@mkdir -p build/tmp build/home

$(VENV)/.requirements: pyproject.toml requirements.txt infer_resnet/requirements.txt train_resnet/requirements.txt
	sh scripts/make_venv.sh $(VENV) $(PY)
	$(PY) -m pip install --no-cache-dir --disable-pip-version-check -r requirements.txt --editable .
	@touch $@

# The platform's command-line tool in a folder of its own: it wants older versions of what the rest needs.
$(VENV)/.requirements-dev: requirements-dev.txt requirements-ikcli.txt $(VENV)/.requirements
	$(PY) -m pip install --no-cache-dir --disable-pip-version-check -r requirements-dev.txt
	$(PY) -m pip install --no-cache-dir --disable-pip-version-check --upgrade --no-deps --target $(VENV)/ikcli \
	    -r requirements-ikcli.txt
	@touch $@
