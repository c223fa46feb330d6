# Two commands: `make demo` and `make test`. Each makes its own .venv first; after that no network is needed.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test lint clean

setup: .venv/.made

# requirements.lock is a constraints file: exact versions, but pip still picks the torch build that fits the machine
.venv/.made: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Wetread needs Python 3.11 or newer; call make PYTHON=python3.12, say")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[postgres,encoder,dev]' 2>&1 | grep -v 'WARNING: Location' || true
	$(BIN)/python -m pip check
	$(BIN)/wetread --help > /dev/null
	touch $@

demo: setup
	$(BIN)/wetread demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv
