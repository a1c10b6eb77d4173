# Two commands do everything on a machine with Python 3.11 and make:
#   make serve   a server with the demo model       make test   the whole suite
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A plain path entry: found also where a folder named like the package lies about.
EDITABLE := install --quiet --constraint constraints.txt \
  --config-settings editable_mode=compat --editable
DATA ?=
TORCH ?=
ADDRESS ?= localhost:50051
PYTEST := $(BIN)/python -m pytest $(if $(DATA),--data=$(DATA))

.PHONY: help serve chat test test-all lint format results clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(EDITABLE) .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(EDITABLE) '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-torch: constraints-torch.txt $(VENV)/.installed-dev
	$(PIP) install --quiet --constraint constraints.txt \
	  --constraint constraints-torch.txt torch transformers
	@touch $@

serve: $(VENV)/.installed  ## serve the demo model (ARGS="--model=DIR ..." for more)
	@exec $(BIN)/mell-serve $(ARGS)

chat: $(VENV)/.installed  ## talk to the server at ADDRESS
	@exec $(BIN)/python -m mell_jax.client --address=$(ADDRESS)

test: lint $(if $(TORCH),$(VENV)/.installed-torch)  ## lint, types, tests (DATA=DIR, TORCH=1: more of them)
	$(PYTEST) -m "not slow"

test-all: lint $(VENV)/.installed-torch  ## every test, also the slow ones
	$(PYTEST)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: $(VENV)/.installed  ## simulate every setting into scheduler/RESULTS.md (DATA=DIR of traces)
	$(BIN)/mell-simulate --results=scheduler/RESULTS.md $(if $(DATA),--data=$(if $(wildcard $(DATA)/traces),$(DATA)/traces,$(DATA)))

format: $(VENV)/.installed-dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
