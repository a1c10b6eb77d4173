"""From flags to the settings of each suite, and to what runs it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:  # they import jax: slow, and needless for --help
    from mell_jax.bench.report import Report
    from mell_jax.bench.serving import ServingSettings
    from mell_jax.engine.config import EngineConfig

Save = Callable[["Report"], None]  # keeps what is known so far
Suite = Callable[[Save], "Report"]


def settle(values: flags.FlagValues) -> tuple[object, Suite]:
    """The settings of the suite, and what runs it.

    Raises:
      ValueError: a flag is out of range.
    """
    suites = {
        "serving": _serving,
        "decode": _decode,
        "overhead": _overhead,
        "startup": _startup,
        "kernels": _kernels,
        "fleet": _fleet,
        "migration": _migration,
        "service": _service,
    }
    return suites[values.suite](values)


def _serving(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.serving import run_serving  # noqa: PLC0415 imports jax

    settings = _requests(values, engine=_engine(values, model="demo"))
    return settings, lambda _: run_serving(settings, progress=values.progress)


def _requests(values: flags.FlagValues, *, engine: "EngineConfig") -> "ServingSettings":
    from mell_jax.bench.serving import ServingSettings  # noqa: PLC0415 imports jax

    scale = values.length_scale
    return ServingSettings(
        engine=engine,
        address=values.address,
        trace=_path(values.trace),
        trace_model=values.trace_model,
        num_requests=values.num_requests,
        input_tokens=values.input_tokens,
        output_tokens=values.output_tokens,
        length_scale=None if scale == "auto" else _number("length_scale", scale),
        request_rate=values.request_rate,
        time_scale=values.time_scale,
        max_concurrency=values.max_concurrency,
        text=_path(values.text),
        tokenizer=_path(values.tokenizer),
        temperature=values.temperature,
        seed=values.seed,
    )


def _fleet(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.fleet import (  # noqa: PLC0415 imports jax
        FleetSettings,
        run_fleet,
    )

    engine = _engine(values, model="demo")
    engine = dataclasses.replace(
        engine,
        max_rows=engine.max_rows or 16,
        kv_pages=engine.kv_pages or 129,
        prefix_cache=False,
    )
    settings = FleetSettings(
        requests=_requests(values, engine=engine),
        policies=tuple(values.policies),
        instances=values.instances,
        models=tuple(values.models),
        epoch_s=values.epoch_s,
        clock=values.fleet_clock,
        step_ms=values.step_ms,
        prefill_tokens_per_s=values.prefill_tokens_per_s,
    )
    return settings, lambda _: run_fleet(settings, progress=values.progress)


def _migration(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.migration import (  # noqa: PLC0415 imports jax
        MigrationSettings,
        run_migration,
    )

    settings = MigrationSettings(
        engine=_engine(values, model="random:long"),
        instances=values.instances,
        repeats=values.repeats or 5,
        seed=values.seed,
    )
    return settings, lambda _: run_migration(settings, progress=values.progress)


def _service(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.service import (  # noqa: PLC0415 imports jax
        ServiceSettings,
        run_service,
    )

    engine = _engine(values, model="demo")
    settings = ServiceSettings(
        parts=tuple(values.service_parts),
        engine=dataclasses.replace(
            engine, max_rows=engine.max_rows or 32, decode_rows=(engine.max_rows or 32,)
        ),
        churn_minutes=values.churn_minutes,
        streams=_sizes(values.batch_sizes or (1, 64, 512, 1024)),
        frontends=values.frontends,
        step_ms=values.service_step_ms,
        seconds=values.seconds,
    )
    return settings, lambda _: run_service(settings, progress=values.progress)


def _decode(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.decode import (  # noqa: PLC0415 imports jax
        DecodeSettings,
        run_decode,
    )

    settings = DecodeSettings(
        engine=_engine(values, model="random:110m"),
        batches=_sizes(values.batch_sizes or (1, 8, 32)),
        prompt_tokens=values.prompt_tokens or 512,
        new_tokens=values.new_tokens,
        repeats=values.repeats or 3,
        torch_python=values.torch_python,
        seed=values.seed,
    )
    return settings, lambda _: run_decode(settings, progress=values.progress)


def _overhead(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.overhead import (  # noqa: PLC0415 imports jax
        OverheadSettings,
        run_overhead,
    )

    settings = OverheadSettings(
        engine=_engine(values, model="demo"),
        batches=_sizes(values.batch_sizes or (32, 256)),
        prompt_tokens=values.prompt_tokens or 16,
        steps=values.steps,
        repeats=values.repeats or 6,
        seed=values.seed,
    )
    return settings, lambda _: run_overhead(settings, progress=values.progress)


def _startup(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.startup import (  # noqa: PLC0415 imports jax
        StartupSettings,
        run_startup,
    )

    settings = StartupSettings(
        model=values.model or "demo", repeats=values.repeats or 3
    )
    return settings, lambda _: run_startup(settings, progress=values.progress)


def _kernels(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.kernels import (  # noqa: PLC0415 imports jax
        KernelSettings,
        run_kernels,
    )

    settings = KernelSettings(
        backend=values.attention_backend,
        repeats=values.repeats or 7,
        parts=tuple(values.parts),
        tune=values.tune,
        rehearse=values.rehearse,
        torch_python=values.torch_python,
        seed=values.seed,
    )
    return settings, lambda save: run_kernels(
        settings, progress=values.progress, save=save
    )


def _engine(values: flags.FlagValues, *, model: str) -> "EngineConfig":
    from mell_jax.engine.config import EngineConfig  # noqa: PLC0415 imports jax

    return EngineConfig(
        model=values.model or model,
        dtype=values.dtype,
        max_model_len=values.max_model_len,
        max_rows=values.max_rows,
        token_budget=values.token_budget,
        kv_pages=values.kv_pages,
        prefix_cache=values.prefix_cache,
        attention_backend=values.attention_backend,
        compilation_cache_dir=_path(values.compilation_cache_dir),
    )


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _sizes(values: Sequence[str | int]) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(value) for value in values}))
    except ValueError as error:
        raise ValueError(
            f"batch_sizes must be numbers with commas between them, got {values}"
        ) from error


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a number or auto, got {value!r}") from error
    if not (0.0 < number < math.inf):
        raise ValueError(f"{name} must be positive, got {value}")
    return number
