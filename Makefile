# veriroute: `make demo`, `make test`, `make lint`, `make bench`. A fresh machine needs Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format bench bench-peers bench-soak bench-verify bench-opengradient bench-proofs bench-zk fuzz fuzz-atheris soak lock install clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "veriroute needs Python 3.11 or later; set PYTHON=python3.x" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/veriroute demo

# The tests start some hundreds of gateways and nodes. Without bytecode each compiles all that it imports again, half of
# what its start takes; an empty variable is none.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .

bench: $(STAMP)
	$(BIN)/python bench/run.py

# Beside other people's gateways, in a network that has nothing but the loopback device: they can reach nobody.
PEERS := litellm,tensorzero,vllm-router,portkey
bench-peers: $(STAMP)
	@bench/peers.sh
	@unshare $(if $(filter-out 0,$(shell id -u)),--map-root-user) --net sh -c 'ip link set lo up && exec $(BIN)/python bench/run.py --memory-requests 0 \
	  --targets direct,nginx,veriroute,$(PEERS) --scenarios json-1,json-16,json-16-34k,sse-16,sse-64'

bench-soak: $(STAMP)
	$(BIN)/python bench/run.py --soak

# The CPU time of one verification of each kind of evidence; ends with 1 when a target is missed.
bench-verify: $(STAMP)
	@$(BIN)/python bench/verify.py

# The gateway in front of an OpenGradient network: first byte, CPU, latency; ends with 1 when a target is missed.
bench-opengradient: $(STAMP)
	@$(BIN)/python bench/opengradient.py

# What each statistical test finds on the reference node's own model; ends with 1 when a promised figure is missed.
bench-proofs: $(STAMP)
	@$(BIN)/python bench/proofs_nodes.py $(if $(PROMPTS),--prompts $(PROMPTS))

# The event loop's lag with and without zero-knowledge proofs being verified; ends with 1 over 5 ms. Needs [zk].
bench-zk: $(STAMP)
	@$(BIN)/python bench/zk_lag.py

# A million mutated inputs through every parser and verifier; `make test` runs some hundreds.
fuzz: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m fuzzing $(if $(FUZZ_INPUTS),--inputs $(FUZZ_INPUTS))

# One world, WORLD=nitro, under coverage-guided mutation; atheris has to be installed.
fuzz-atheris: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m fuzzing.guided $(WORLD) -max_total_time=$(or $(FUZZ_SECONDS),600)

# 100 rounds of kill -9 under load, of the whole gateway and of the log writer alone; `make test` runs a few.
soak: $(STAMP)
	VERIROUTE_KILL_ROUNDS=100 $(BIN)/python -m pytest tests/e2e/test_kill.py tests/storage/test_kill_nine.py

lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
