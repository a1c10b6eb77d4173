"""From a configuration to an engine that is ready: load, allocate, compile."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jax
from flax import nnx

from mell_jax.checkpoints import (
    CheckpointError,
    ModelSpec,
    load_model,
    read_spec,
)
from mell_jax.engine.blueprint import (
    choose_groups,
    make_batcher,
    make_blueprint,
    make_worker,
    settle_on,
)
from mell_jax.engine.config import DEMO, EngineConfig, Settled
from mell_jax.engine.core import Engine
from mell_jax.engine.fleet.build import build_fleet
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.thread import EngineThread
from mell_jax.models.decoder import Decoder
from mell_jax.worker.compilation import CompilationCounter, use_compilation_cache
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.step import ModelParts, Weights, put_weights, split_model


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A warmed-up engine, not started yet, and what was learned on the way.

    Run it with `thread`, or call `engine.step` yourself; not both.
    """

    engine: Engine | Fleet
    thread: EngineThread
    spec: ModelSpec
    compilations: CompilationCounter
    directory: Path | None  # where the model came from


def demo_directory() -> Path:
    """The model that ships with the package."""
    return Path(str(resources.files("mell_jax") / "demo"))


def build_engine(
    config: EngineConfig, *, fleet: FleetConfig | None = None, progress: bool = False
) -> BuiltEngine:
    """Loads `config.model` onto its devices and compiles every step.

    Several instances make a fleet, which `fleet` describes.

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
    spec = read_spec(directory)
    groups = choose_groups(config, model=spec.config)
    settled = settle_on(config, spec=spec, groups=groups)
    model = load_model(
        directory,
        dtype=settled.dtype,
        sharding_for=groups[0].weight_sharding,
        progress=progress,
    )
    name = config.served_model_name or (
        DEMO if config.model == DEMO else directory.resolve().name
    )
    parts, weights = split_model(model.graphdef, model.state)
    return assemble(
        parts,
        weights=weights,
        spec=spec,
        groups=groups,
        config=config,
        fleet=fleet,
        name=name,
        directory=directory,
        progress=progress,
    )


def build_from_module(
    module: Decoder,
    *,
    spec: ModelSpec,
    config: EngineConfig,
    fleet: FleetConfig | None = None,
    progress: bool = False,
) -> BuiltEngine:
    """An engine around a decoder that is in memory already, such as a trained one.

    The weights are cast to the engine's precision and copied to its devices; the module
    stays as it is.
    """
    groups = choose_groups(config, model=spec.config)
    settled = settle_on(config, spec=spec, groups=groups)
    graphdef, state = nnx.split(_recast(module, settled))
    parts, weights = split_model(graphdef, state)
    return assemble(
        parts,
        weights=put_weights(weights, paths=parts.paths, group=groups[0]),
        spec=spec,
        groups=groups,
        config=config,
        fleet=fleet,
        name=config.served_model_name or "module",
        directory=None,
        progress=progress,
    )


def assemble(
    parts: ModelParts,
    *,
    weights: Weights,
    spec: ModelSpec,
    groups: Sequence[DeviceGroup],
    config: EngineConfig,
    fleet: FleetConfig | None,
    name: str,
    directory: Path | None,
    progress: bool,
) -> BuiltEngine:
    """Puts pools, steps, batchers and an engine around weights on the first group."""
    compilations = CompilationCounter()
    if config.compilation_cache_dir is not None:
        use_compilation_cache(config.compilation_cache_dir)
    others = [put_weights(weights, paths=parts.paths, group=g) for g in groups[1:]]
    blueprint = make_blueprint(
        parts, spec=spec, config=config, name=name, groups=groups
    )
    engine: Engine | Fleet
    if others:
        engine = build_fleet(
            blueprint,
            groups=groups,
            weights=[weights, *others],
            config=fleet or FleetConfig(),
            seed=config.seed,
            progress=progress,
        )
    else:
        worker = make_worker(blueprint, group=groups[0], weights=weights)
        worker.warm_up(progress=progress)
        batcher = make_batcher(blueprint)
        engine = Engine(worker, batcher, info=blueprint.info, seed=config.seed)
    return BuiltEngine(
        engine=engine,
        thread=EngineThread(engine, compilations=compilations),
        spec=spec,
        compilations=compilations,
        directory=directory,
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
