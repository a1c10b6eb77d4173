"""Turns flags into settings: the engine, the requests, and where figures go."""

import dataclasses
import math
from pathlib import Path

from absl import flags

from mell_jax.bench.flags import ENGINE_SETTINGS, MESH_SETTINGS
from mell_jax.bench.measure import Suite, measure
from mell_jax.bench.profile import ProfileSettings, run_profile
from mell_jax.bench.serving import ServingSettings, run_serving
from mell_jax.bench.step_load import LoadSettings
from mell_jax.engine.config import EngineConfig, ModelsConfig
from mell_jax.settings.flags import given_flags
from mell_jax.settings.setting import build


def measure_suite(values: flags.FlagValues, *, command: str) -> None:
    """Measures what --suite names.

    Raises:
      ValueError: a flag is out of range.
    """
    settle = {"serving": _settle_serving, "profile": _settle_profile}
    measure(values, command=command, settle=settle[values.suite])


def _settle_serving(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = request_settings(values, engine=engine_config(values, model="demo"))
    return settings, lambda _: run_serving(settings, progress=values.progress)


def _settle_profile(values: flags.FlagValues) -> tuple[object, Suite]:
    mesh = build(ModelsConfig(), given=given_flags(values, settings=MESH_SETTINGS))
    instances, tensor_parallel = mesh.shape()
    settings = ProfileSettings(
        engine=dataclasses.replace(
            engine_config(values, model="demo"),
            instances=instances,
            tensor_parallel=tensor_parallel,
        ),
        profile=Path(values.profile),
        load=LoadSettings(seed=values.seed),
    )
    return settings, lambda _: run_profile(settings, progress=values.progress)


def request_settings(
    values: flags.FlagValues, *, engine: EngineConfig
) -> ServingSettings:
    """Returns the settings of what is asked of an engine.

    Raises:
      ValueError: a flag is out of range.
    """
    scale = values.length_scale
    return ServingSettings(
        engine=engine,
        address=values.address,
        trace=optional_path(values.trace),
        trace_model=values.trace_model,
        num_requests=values.num_requests,
        input_tokens=values.input_tokens,
        output_tokens=values.output_tokens,
        length_scale=None if scale == "auto" else _number("length_scale", scale),
        request_rate=values.request_rate,
        time_scale=values.time_scale,
        max_concurrency=values.max_concurrency,
        text=optional_path(values.text),
        tokenizer=optional_path(values.tokenizer),
        temperature=values.temperature,
        seed=values.seed,
    )


def engine_config(values: flags.FlagValues, *, model: str) -> EngineConfig:
    """Returns the engine of this process, around `model` unless a flag names one."""
    given = given_flags(values, settings=ENGINE_SETTINGS)
    return build(EngineConfig(), given=given, model=values.model or model)


def optional_path(value: str | None) -> Path | None:
    """Returns the path that a flag gives, if it gives one."""
    return None if value is None else Path(value)


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a number or auto, got {value!r}") from error
    if not (0.0 < number < math.inf):
        raise ValueError(f"{name} must be positive, got {value}")
    return number
