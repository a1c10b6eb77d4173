"""From a configuration to an engine that is ready: load, allocate, compile."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from mell_jax.checkpoints import (
    CheckpointError,
    LoadedModel,
    ModelSpec,
    load_model,
    read_spec,
)
from mell_jax.engine.config import DEMO, EngineConfig, Settled, settle
from mell_jax.engine.core import Engine
from mell_jax.engine.frames import EngineInfo
from mell_jax.engine.thread import EngineThread
from mell_jax.models.decoder import Decoder
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.compilation import CompilationCounter, use_compilation_cache
from mell_jax.worker.device import DeviceWorker, jit_steps
from mell_jax.worker.pool import (
    PAGE_TOKENS,
    check_pool_dtype,
    choose_num_pages,
    free_bytes,
    make_pool,
    page_bytes,
)
from mell_jax.worker.step import StepOptions, split_model


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A warmed-up engine, not started yet, and what was learned on the way.

    Run it with `thread`, or call `engine.step` yourself; not both.
    """

    engine: Engine
    thread: EngineThread
    spec: ModelSpec
    compilations: CompilationCounter
    directory: Path | None  # where the model came from


def demo_directory() -> Path:
    """The model that ships with the package."""
    return Path(str(resources.files("mell_jax") / "demo"))


def build_engine(config: EngineConfig, *, progress: bool = False) -> BuiltEngine:
    """Loads `config.model` onto the first device and compiles every step.

    Raises:
      CheckpointError: the model directory cannot be used.
      ValueError: the configuration contradicts itself, the model or the device.
    """
    directory = demo_directory() if config.model == DEMO else Path(config.model)
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory}: no such directory; a model is a directory on this machine "
            f"(nothing is downloaded), or {DEMO!r}"
        )
    device = jax.devices()[0]
    spec = read_spec(directory)
    settled = _settle(config, spec=spec, device=device)
    sharding = jax.sharding.SingleDeviceSharding(device)
    model = load_model(
        directory,
        dtype=settled.dtype,
        sharding_for=lambda path, shape: sharding,
        progress=progress,
    )
    name = config.served_model_name or (
        DEMO if config.model == DEMO else directory.resolve().name
    )
    return assemble(
        model, config=config, name=name, directory=directory, progress=progress
    )


def build_from_module(
    module: Decoder, *, spec: ModelSpec, config: EngineConfig, progress: bool = False
) -> BuiltEngine:
    """An engine around a decoder that is in memory already, such as a trained one.

    The weights are cast to the engine's precision and copied to its device; the module
    stays as it is.
    """
    device = jax.devices()[0]
    settled = _settle(config, spec=spec, device=device)
    graphdef, state = nnx.split(_recast(module, settled))
    state = jax.device_put(state, device)
    model = LoadedModel(spec=spec, graphdef=graphdef, state=state)
    return assemble(
        model,
        config=config,
        name=config.served_model_name or "module",
        directory=None,
        progress=progress,
    )


def assemble(
    model: LoadedModel,
    *,
    config: EngineConfig,
    name: str,
    directory: Path | None,
    progress: bool,
) -> BuiltEngine:
    """Puts pool, steps, batcher and engine around a loaded model, and warms up."""
    compilations = CompilationCounter()
    if config.compilation_cache_dir is not None:
        use_compilation_cache(config.compilation_cache_dir)
    device = jax.devices()[0]
    spec = model.spec
    settled = _settle(config, spec=spec, device=device)
    num_pages = _num_pages(config, settled, spec=spec, device=device)
    options = StepOptions(
        attention_backend=settled.attention_backend, page_tokens=PAGE_TOKENS
    )
    parts, weights = split_model(model.graphdef, model.state)
    worker = DeviceWorker(
        jit_steps(parts, buckets=settled.buckets(), options=options),
        weights=weights,
        pool=make_pool(
            spec.config, num_pages=num_pages, dtype=settled.dtype, device=device
        ),
        max_rows=settled.max_rows,
        vocab_size=spec.config.vocab_size,
    )
    worker.warm_up(progress=progress)
    engine = Engine(
        worker,
        _batcher(config, settled, num_pages=num_pages),
        info=_info(spec, settled, name=name, num_pages=num_pages),
        seed=config.seed,
    )
    return BuiltEngine(
        engine=engine,
        thread=EngineThread(engine, compilations=compilations),
        spec=spec,
        compilations=compilations,
        directory=directory,
    )


def _settle(config: EngineConfig, *, spec: ModelSpec, device: jax.Device) -> Settled:
    """Bounds the context by what fits now: before loading to find mistakes early,
    and again with what the weights leave."""
    platform = device.platform
    guess = "float32" if platform == "cpu" else "bfloat16"
    dtype: Any = guess if config.dtype == "auto" else config.dtype
    size = page_bytes(spec.config, dtype=dtype, platform=platform)
    pages = config.kv_pages or int(
        free_bytes(device) * config.kv_memory_fraction / size
    )
    settled = settle(
        config,
        model=spec.config,
        platform=platform,
        device_kind=device.device_kind,
        capacity_tokens=max(pages - 1, 0) * PAGE_TOKENS,
    )
    check_pool_dtype(settled.dtype, platform=platform)
    return settled


def _num_pages(
    config: EngineConfig, settled: Settled, *, spec: ModelSpec, device: jax.Device
) -> int:
    if config.kv_pages is not None:
        needed = settled.max_pages + 1
        if not (config.kv_pages >= needed):
            raise ValueError(
                f"kv_pages ({config.kv_pages}) must be at least {needed}: a scratch "
                f"page and one sequence of {settled.max_model_len} tokens; give more "
                "pages or a smaller max_model_len"
            )
        return config.kv_pages
    return choose_num_pages(
        spec.config,
        dtype=settled.dtype,
        platform=device.platform,
        budget_bytes=int(free_bytes(device) * config.kv_memory_fraction),
        max_tokens=settled.max_model_len,
        max_rows=settled.max_rows,
    )


def _batcher(config: EngineConfig, settled: Settled, *, num_pages: int) -> Batcher:
    return Batcher(
        PrefixCache(PagePool(num_pages)),
        limits=BatchLimits(
            max_rows=settled.max_rows,
            token_budget=settled.token_budget,
            max_tokens=settled.max_model_len,
        ),
        page_tokens=PAGE_TOKENS,
        shares_prefixes=config.prefix_cache,
    )


def _info(
    spec: ModelSpec, settled: Settled, *, name: str, num_pages: int
) -> EngineInfo:
    return EngineInfo(
        model_name=name,
        model_type=spec.model_type,
        architecture=spec.architecture,
        vocab_size=spec.config.vocab_size,
        eos_token_ids=spec.eos_ids,
        bos_token_id=spec.bos_id,
        max_model_len=settled.max_model_len,
        max_rows=settled.max_rows,
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
    )


def _recast(module: Decoder, settled: Settled) -> Decoder:
    """A decoder of the engine's precision with the weights of `module`."""
    fresh: Decoder = nnx.eval_shape(
        lambda: Decoder(module.config, rngs=nnx.Rngs(0), dtype=settled.dtype)
    )
    graphdef, _ = nnx.split(fresh)
    _, state = nnx.split(module)
    state = jax.tree.map(lambda leaf: leaf.astype(settled.dtype), state)
    return nnx.merge(graphdef, state)
