# make run     from a fresh clone to an answered image (makes the environments first; later runs start at once)
# make check   the fast tests, ruff and mypy: about a minute
# make test    everything this machine can run, the real vLLM and LiteLLM included: about half an hour on two cores
# make soak    what takes long: saturation, floods, many faults, every Python
# make bench   figures
# make docs    write what is generated in the documents; make picture records docs/status.svg
# make locks   resolve the engines' lock files again; UPGRADE=1 takes the newest releases

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TINY := .demo/tiny-glm-4.1v

.PHONY: run docs picture locks check lint test test-clients soak bench bench-engines clean

run: $(VENV)/.runtime
	@$(BIN)/llm-supervisor install --tiny-model $(TINY)
	@exec $(BIN)/llm-supervisor run -c configs/demo.yaml

$(VENV)/.runtime: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Making the daemon's environment in $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e . 2>&1 | { grep -v 'is ignored: it is neither' || true; }
	@test -x $(BIN)/llm-supervisor && touch $@

locks: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/support/make_locks.py $(if $(UPGRADE),--upgrade)

docs: $(VENV)/.dev
	$(BIN)/llm-supervisor config schema > configs/supervisor.schema.json
	$(BIN)/python -m tests.support.make_docs

picture: $(VENV)/.dev
	$(BIN)/llm-supervisor install --tiny-model $(TINY)
	$(BIN)/python -m tests.support.make_picture

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Adding what the tests need ..."
	@$(BIN)/python tests/requirements.py | xargs $(BIN)/python -m pip install -q --disable-pip-version-check 2>&1 \
	  | { grep -v 'is ignored: it is neither' || true; }
	@$(BIN)/python -c 'import hypothesis, mypy, pytest, xdist' && touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check supervisor tests
	$(BIN)/ruff format --check supervisor tests
	$(BIN)/mypy --strict

check: lint
	$(BIN)/python -m pytest -q -n 2 -m "not real and not slow and not systemd and not soak and not clients" \
	  --ignore tests/engines --ignore tests/systemd --ignore tests/clients

test: lint
	$(BIN)/llm-supervisor install --tiny-model $(TINY)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 10 -m "not soak and not clients"

soak: $(VENV)/.dev
	$(BIN)/llm-supervisor install --tiny-model $(TINY)
	$(BIN)/python -m pytest -m soak

# Claude Code, Codex and Gemini CLI from npm, on the local model
test-clients: $(VENV)/.dev
	npm install --no-audit --no-fund --prefix .demo/clients @anthropic-ai/claude-code @openai/codex @google/gemini-cli
	$(BIN)/llm-supervisor install --tiny-model $(TINY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m clients tests/clients

bench: $(VENV)/.dev
	$(BIN)/python tests/bench.py

bench-engines: $(VENV)/.dev
	$(BIN)/llm-supervisor install --tiny-model $(TINY)
	$(BIN)/python tests/bench_engines.py

clean:
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
