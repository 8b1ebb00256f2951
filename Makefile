# Two commands are enough: `make lab` to use it, `make test` to trust it. Both set everything up themselves.

python  := .venv/bin/python
ready   := .venv/.ready
books   := $(wildcard notebooks/*.ipynb exercises/*/*.ipynb)
pytest  := $(python) -m pytest -n auto --maxprocesses=4 --dist=worksteal

# python3, unless it is too old and a newer one stands beside it.
at_least_311 = $(shell $1 -c 'import sys; sys.version_info >= (3, 11) and print("$1")' 2>/dev/null)
PYTHON ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(call at_least_311,$p))),python3)

.PHONY: help lab test demo setup check bench fuzz notebooks binder browser

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

lab: $(ready) ## open JupyterLab at the tour (make lab ARGS=--no-browser only serves it)
	$(python) -m jupyterlab -y $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir='$(CURDIR)' \
		--LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb $(ARGS)

test: $(ready) browser check ## run every test: checks, units, doctests, a real browser, the notebooks
	$(pytest)
	$(pytest) --nbmake --nbmake-timeout=300 $(books)

demo: $(ready) ## compare the approaches on a recorded NVMe guest, in the terminal
	.venv/bin/smmu-lab compare --trace nvme_dd_r4k_j4_strict_61 --think 20us

setup: $(ready) ## make the virtual environment .venv; quick when nothing changed

check: $(ready) ## lint, format, types, layers, and notebooks that agree with their sources
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	.venv/bin/lint-imports
	.venv/bin/nbstripout --verify $(books)
	$(python) -m pytest -q tests/house/test_notebooks.py

bench: $(ready) browser ## time the simulator beside its textbook model and beside C, and the views: some minutes
	.venv/bin/smmu-lab bench
	$(python) -m tests.browser.bench

fuzz: $(ready) ## ten minutes of random input for decode, traces and registers (ARGS=--seed N)
	$(python) -m tests.fuzz.long --minutes 10 $(ARGS)

notebooks: $(ready) ## pair notebooks with their .py sources, strip their outputs, execute them
	.venv/bin/jupytext --sync notebooks/*.py exercises/*/exercise.py
	.venv/bin/nbstripout $(books)
	$(python) -m pytest --nbmake --nbmake-timeout=300 $(books)

binder: $(ready) ## pin binder/requirements.txt to what the core resolves to today
	$(python) binder/pin.py

browser: $(ready) ## find the Chromium of the tests; as root, install it when there is none
	@.ci/browser --install

# The stamp comes last: without it, .venv is the ruin of an unfinished set-up.
$(ready): pyproject.toml binder/overrides.json
	@[ -n '$(call at_least_311,$(PYTHON))' ] || { echo >&2 'smmu_lab needs Python 3.11 or newer, and' \
		"$(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.11"; exit 2; }
	@[ -e $@ ] || rm -rf .venv
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/apt $(notdir $(PYTHON))-venv
	@[ -e $@ ] || { echo 'Setting up .venv: a minute or two, once.'; $(PYTHON) -m venv .venv; }
	$(python) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@mkdir -p .venv/share/jupyter/lab/settings
	cp binder/overrides.json .venv/share/jupyter/lab/settings/
	@touch $@
