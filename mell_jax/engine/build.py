"""Makes an engine that is ready from a configuration: load, allocate, compile."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx

from mell_jax.checkpoints import (
    CheckpointError,
    CheckpointSpec,
    find_spec,
    load_model,
    read_spec,
    split_ids,
)
from mell_jax.checkpoints.folder_kind import explain_path
from mell_jax.checkpoints.generation import read_sampling
from mell_jax.engine.blueprint import choose_groups, settle_on
from mell_jax.engine.config import DEMO, EngineConfig
from mell_jax.engine.default_params import check_sampling, tell_sampling
from mell_jax.engine.fleet.build import ReadyModel, build_fleet, build_parts
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.hosts.host import Host
from mell_jax.engine.hosts.wires import Wires
from mell_jax.engine.self_check import SelfCheck, ask_module
from mell_jax.engine.settled import SettledConfig
from mell_jax.engine.thread import EngineThread
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.routes import put_on_devices
from mell_jax.engine.weights.shared import share_weights
from mell_jax.models.config import ModelConfig
from mell_jax.models.servable import ServableModel
from mell_jax.models.serving_copy import serving_copy, serving_view
from mell_jax.models.serving_form import ServingForm, to_serving_form
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.text.ends import find_eos_ids
from mell_jax.worker.compilation import CompilationCounter, keep_programs
from mell_jax.worker.form import HALF_FEATURES, choose_form, cpu_features
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.settings import own_settings
from mell_jax.worker.step import ModelParts, Weights, put_weights, split_model

if TYPE_CHECKING:  # who measures steps alone has no tokenizers
    from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A built model is one that an engine serves."""

    name: str
    spec: CheckpointSpec
    directory: Path | None  # or a GGUF file; where it came from, if not from memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A built engine is warm and not started yet.

    Run it with `thread`, or call `engine.step` yourself; not both.
    """

    engine: Fleet
    thread: EngineThread
    models: tuple[BuiltModel, ...]
    plans: Mapping[str, WeightsPlan]  # of each model's updates, by its name
    compilations: CompilationCounter

    def learn(self, tokenizers: "Mapping[str, Tokenizer | None]") -> None:
        """Lets requests of models have grammars; before the engine serves.

        Args:
          tokenizers: by the model's name; None leaves it without.
        """
        _learn(self.engine, tokenizers)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltHost:
    """A built host is warm and not started yet; it is one of a fleet."""

    host: Host
    thread: EngineThread
    models: tuple[BuiltModel, ...]
    specs: Mapping[ModelId, ModelSpec]

    def learn(self, tokenizers: "Mapping[str, Tokenizer | None]") -> None:
        """Lets requests of models have grammars; see `BuiltEngine.learn`."""
        _learn(self.host, tokenizers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A source is a model that was found to fit its devices and is not loaded yet."""

    config: EngineConfig
    model: BuiltModel
    groups: Sequence[DeviceGroup]
    load: Callable[[], "_Loaded"]  # onto the first group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A loaded model's weights lie on the first of its groups, or on each."""

    parts: ModelParts
    weights: Sequence[Weights]  # on the first group, or on all
    plan: WeightsPlan
    self_check: SelfCheck | None = None


def _learn(engine: Fleet | Host, tokenizers: "Mapping[str, Tokenizer | None]") -> None:
    for info in engine.infos:
        tokenizer = tokenizers[info.model_name]
        if tokenizer is not None:
            table = tokenizer.token_table(
                end_ids=info.eos_token_ids, vocab_size=info.vocab_size
            )
            engine.learn(info.model_name, table)


def demo_directory() -> Path:
    """Returns the directory of the model that ships with the package."""
    return Path(str(resources.files("mell_jax") / "demo"))


def build_engine(
    config: EngineConfig,
    *others: EngineConfig,
    model_config: ModelConfig | None = None,
    fleet: FleetConfig | None = None,
    progress: bool = False,
) -> BuiltEngine:
    """Loads models onto their devices and compiles every step.

    One instance is the smallest fleet. Several models share the instances' devices.

    Args:
      config: of the model that answers requests which name none.
      others: of more models; on the same devices, under other names.
      model_config: describes the first model, whose directory has no `config.json`.

    Raises:
      CheckpointError: a model directory cannot be used.
      ValueError: a configuration contradicts itself, the model, the device or another.
      OSError: the folder of compiled steps cannot be used, and has to be.
    """
    sources = [
        _find(config, model_config=model_config, progress=progress),
        *(_find(other, model_config=None, progress=progress) for other in others),
    ]
    _check_together(sources)
    return _assemble(sources, fleet=fleet, progress=progress)


def build_from_module(
    module: ServableModel,
    *,
    spec: CheckpointSpec,
    config: EngineConfig,
    fleet: FleetConfig | None = None,
    progress: bool = False,
    is_shared: bool = False,
) -> BuiltEngine:
    """Builds an engine around a module that is in memory, such as a trained one.

    Its parameters are cast to the engine's precision and copied to its devices; the
    module stays as it is. One with parts that are not ours is checked at the start: by
    itself and over pages it must say the same.

    Args:
      module: an NNX module that `check_servable` lets pass.
      is_shared: its own arrays are served, where it has them; they are neither cast nor
        put into the form of their devices.

    Raises:
      ValueError: they cannot be shared as they are.
    """
    module = _on_devices(module)
    groups = choose_groups(config, model=spec.config)
    settled = settle_on(config, spec=spec, groups=groups)

    def load() -> _Loaded:
        served = serving_copy(module, dtype=settled.dtype)
        check = None if _is_ours(served) else ask_module(served, settled=settled)
        form = _form(settled, group=groups[0])
        plan = WeightsPlan(served, spec=spec, form=form, groups=groups)
        to_serving_form(served, form=form)
        parts, weights = split_model(*nnx.split(served))
        weights = put_weights(weights, paths=parts.paths, group=groups[0])
        return _Loaded(parts=parts, weights=[weights], plan=plan, self_check=check)

    def share() -> _Loaded:
        served = serving_view(module)
        plan = WeightsPlan(
            served, spec=spec, form=ServingForm(), groups=groups, is_shared=True
        )
        check = None if _is_ours(served) else ask_module(served, settled=settled)
        parts, weights = split_model(*nnx.split(served))
        shared = share_weights(plan, weights, dtype=settled.dtype)
        return _Loaded(parts=parts, weights=shared, plan=plan, self_check=check)

    name = config.served_model_name or "module"
    source = _Source(
        config=config,
        model=BuiltModel(name=name, spec=spec, directory=None),
        groups=groups,
        load=share if is_shared else load,
    )
    return _assemble([source], fleet=fleet, progress=progress)


def build_host(
    configs: Sequence[EngineConfig],
    *,
    name: str,
    fleet: FleetConfig,
    wires: Wires,
    progress: bool = False,
) -> BuiltHost:
    """Loads models onto this host's devices and compiles every step.

    Args:
      configs: of the models.
      name: of the host.
      wires: take what the host says.

    Raises:
      CheckpointError: a model directory cannot be used.
      ValueError: a configuration contradicts itself, the model, the device or another.
      OSError: the folder of compiled steps cannot be used, and has to be.
    """
    sources = [_find(one, model_config=None, progress=progress) for one in configs]
    _check_together(sources)
    compilations = CompilationCounter()
    with own_settings(), _keeping_programs(sources):
        parts = build_parts(
            (_load_everywhere(source, plans={}) for source in sources),
            config=dataclasses.replace(fleet, has_others=True),
            progress=progress,
        )
    host = Host(
        name,
        models=parts.models,
        capacity_pages={m: spec.capacity_pages for m, spec in parts.specs.items()},
        pool=parts.pool,
        wires=wires,
        clock=time.monotonic,
        config=parts.config,
        arrivals=parts.arrivals,
        shops=parts.shops,
        kv_events=parts.kv_events,
        prefill_tokens_per_s=min(parts.profile.prefill_tokens_per_s.values()),
    )
    return BuiltHost(
        host=host,
        thread=EngineThread(host, compilations=compilations, times=host.times),
        models=tuple(source.model for source in sources),
        specs=parts.specs,
    )


def settle_engine(config: EngineConfig) -> SettledConfig:
    """Returns what `config` comes to on this machine's devices; loads no weights.

    Raises:
      CheckpointError: the model directory cannot be used.
      ValueError: the configuration contradicts itself, the model or the devices.
    """
    directory = model_directory(config)
    spec = _with_sampling(read_spec(directory), config=config, directory=directory)
    groups = choose_groups(config, model=spec.config)
    return settle_on(config, spec=spec, groups=groups)


def model_directory(config: EngineConfig) -> Path:
    """Returns where a model lies.

    Raises:
      CheckpointError: there is nothing.
    """
    directory = demo_directory() if config.model == DEMO else Path(config.model)
    if not directory.exists():
        raise CheckpointError(
            f"{directory}: {explain_path(directory)}; {DEMO!r} is the one that comes "
            "along"
        )
    return directory


def _find(
    config: EngineConfig, *, model_config: ModelConfig | None, progress: bool
) -> _Source:
    directory = model_directory(config)
    spec = find_spec(directory, config=model_config)
    spec = _with_ends(spec, directory=directory)
    spec = _with_sampling(spec, config=config, directory=directory)
    tell_sampling(spec.sampling, model=config.name)
    groups = choose_groups(config, model=spec.config)
    settled = settle_on(config, spec=spec, groups=groups)

    def load() -> _Loaded:
        model = load_model(
            directory,
            dtype=settled.dtype,
            sharding_for=groups[0].weight_sharding,
            config=model_config,
            step=config.checkpoint_step,
            context_tokens=settled.max_model_len,
            progress=progress,
        )
        served = nnx.merge(model.graphdef, model.state)
        del model  # each matrix goes when its place is taken
        form = _form(settled, group=groups[0])
        plan = WeightsPlan(served, spec=spec, form=form, groups=groups)
        to_serving_form(served, form=form)
        parts, weights = split_model(*nnx.split(served))
        return _Loaded(parts=parts, weights=[weights], plan=plan)

    return _Source(
        config=config,
        model=BuiltModel(name=config.name, spec=spec, directory=directory),
        groups=groups,
        load=load,
    )


def _with_ends(spec: CheckpointSpec, *, directory: Path) -> CheckpointSpec:
    """Adds the end of a text that the tokenizer's files name."""
    named = (*spec.eos_ids, *find_eos_ids(directory))
    size = spec.config.vocab_size
    ends, outside = split_ids(named, vocab_size=size)
    outside = tuple(dict.fromkeys((*spec.outside_ids, *outside)))
    if outside:
        logging.warning(
            "%s: special tokens %s are outside the vocabulary of %d and do not count; "
            "a text ends with %s",
            directory,
            ", ".join(map(str, outside)),
            size,
            " or ".join(map(str, ends)) or "no token",
        )
    return dataclasses.replace(spec, eos_ids=ends, outside_ids=outside)


def _with_sampling(
    spec: CheckpointSpec, *, config: EngineConfig, directory: Path
) -> CheckpointSpec:
    """Adds what the directory proposes for requests that leave parameters out."""
    if config.generation_config == "none":
        return spec
    sampling = read_sampling(directory)
    check_sampling(sampling, directory=directory)
    return dataclasses.replace(spec, sampling=sampling)


def _check_together(sources: Sequence[_Source]) -> None:
    """Refuses models of one engine with the same name or different devices."""
    names = [source.model.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(
            f"models must have different names, got {', '.join(names)}; give each its "
            "own, as in --model=name=directory"
        )
    meshes = {(s.config.instances, s.config.tensor_parallel) for s in sources}
    devices = {s.config.device_ids for s in sources}
    if len(meshes) > 1 or len(devices) > 1:
        raise ValueError(
            f"models of one engine share its devices, got meshes {sorted(meshes)} and "
            f"devices {sorted(map(str, devices))}"
        )


def _assemble(
    sources: Sequence[_Source], *, fleet: FleetConfig | None, progress: bool
) -> BuiltEngine:
    """Puts pools, steps, batchers and an engine around weights."""
    with own_settings():
        return _assembled(sources, fleet=fleet, progress=progress)


def _assembled(
    sources: Sequence[_Source], *, fleet: FleetConfig | None, progress: bool
) -> BuiltEngine:
    compilations = CompilationCounter()
    plans: dict[str, WeightsPlan] = {}
    with _keeping_programs(sources):
        engine = build_fleet(
            (_load_everywhere(source, plans=plans) for source in sources),
            config=fleet or FleetConfig(),
            seed=sources[0].config.seed,
            progress=progress,
        )
    return BuiltEngine(
        engine=engine,
        thread=EngineThread(engine, compilations=compilations, times=engine.times),
        models=tuple(source.model for source in sources),
        plans=plans,
        compilations=compilations,
    )


def _keeping_programs(sources: Sequence[_Source]) -> AbstractContextManager[None]:
    """Keeps compiled steps where the first model's configuration says."""
    first = sources[0]
    return keep_programs(
        first.config.compilation_cache_dir,
        is_optional=first.config.is_cache_optional,
        is_shared=len(first.groups) > 1,
    )


def _load_everywhere(source: _Source, *, plans: dict[str, WeightsPlan]) -> ReadyModel:
    """Loads a model onto all of its device groups; notes its plan."""
    loaded = source.load()
    plans[source.model.name] = loaded.plan
    others = [
        put_weights(loaded.weights[0], paths=loaded.parts.paths, group=group)
        for group in source.groups[len(loaded.weights) :]
    ]
    return ReadyModel(
        parts=loaded.parts,
        weights=[*loaded.weights, *others],
        groups=source.groups,
        spec=source.model.spec,
        config=source.config,
        name=source.model.name,
        self_check=loaded.self_check,
    )


def _on_devices(module: ServableModel) -> ServableModel:
    """Returns the module with its arrays where programs can take them; mostly as it is.

    What is cut over a mesh of explicit axes has them in its type, and what waits in
    host memory is of no use there.
    """
    graphdef, state = nnx.split(module)
    there: ServableModel = nnx.merge(graphdef, jax.tree.map(put_on_devices, state))
    return there


def _form(settled: SettledConfig, *, group: DeviceGroup) -> ServingForm:
    """Returns the form that weights have there; says what bfloat16 costs."""
    cpu, is_cpu = cpu_features(), group.devices[0].platform == "cpu"
    if is_cpu and settled.dtype != jnp.float32 and not (cpu & HALF_FEATURES):
        logging.warning(
            "this CPU multiplies no bfloat16 by itself (AVX512-BF16, AMX): the weights "
            "take half the memory, and steps of many rows take longer than in float32 "
            "(dtype)"
        )
    return choose_form(group, dtype=settled.dtype, cpu=cpu)


def _is_ours(model: ServableModel) -> bool:
    """Tells whether no part of a model is of a class that its user wrote."""
    return all(
        type(part).__module__.startswith(("mell_jax.", "flax."))
        for _, part in nnx.iter_modules(cast("nnx.Module", model))
    )
