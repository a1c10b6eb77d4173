"""Turns flags into the settings of each suite, and into what runs it.

`device_suites` has those that look at a device alone.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from benchmarks.engine.decode import DecodeSettings, run_decode
from benchmarks.engine.deterministic import (
    DeterministicSettings,
    run_deterministic,
)
from benchmarks.engine.overhead import OverheadSettings, run_overhead
from benchmarks.engine.startup import StartupSettings, run_startup
from benchmarks.flags import SUITES
from benchmarks.fleet.fidelity import FidelitySettings, run_fidelity
from benchmarks.fleet.migration import MigrationSettings, run_migration
from benchmarks.fleet.suite import FleetSettings, run_fleet
from benchmarks.grammar.suite import GrammarSettings, run_grammar
from benchmarks.hosts.suite import HostsSettings, run_hosts
from benchmarks.rl.suite import RlSettings, run_rl
from benchmarks.service.suite import ServiceSettings, run_service
from mell_jax.bench.measure import Suite, measure
from mell_jax.bench.settle import engine_config, optional_path, request_settings
from mell_jax.bench.step_load import LoadSettings


def measure_suite(values: flags.FlagValues, *, command: str) -> None:
    """Runs the suite that the flags name.

    Raises:
      ValueError: a flag is out of range.
    """
    measure(values, command=command, settle=settle)


def settle(values: flags.FlagValues) -> tuple[object, Suite]:
    """Returns the settings of the suite, and what runs it.

    Raises:
      ValueError: a flag is out of range.
    """
    suites = {
        "decode": _decode,
        "overhead": _overhead,
        "startup": _startup,
        "fleet": _fleet,
        "fidelity": _fidelity,
        "migration": _migration,
        "service": _service,
        "grammar": _grammar,
        "rl": _rl,
        "deterministic": _deterministic,
        "hosts": _hosts,
    }
    if values.suite is None:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}: give --suite")
    return suites[values.suite](values)


def _fleet(values: flags.FlagValues) -> tuple[object, Suite]:
    engine = engine_config(values, model="demo")
    engine = dataclasses.replace(
        engine,
        max_rows=engine.max_rows or 16,
        kv_pages=engine.kv_pages or 129,
        prefix_cache=False,
    )
    settings = FleetSettings(
        requests=request_settings(values, engine=engine),
        policies=tuple(values.policies),
        instances=values.instances,
        models=tuple(values.models),
        epoch_s=values.epoch_s,
        clock=values.fleet_clock,
        step_ms=values.step_ms,
        prefill_tokens_per_s=values.prefill_tokens_per_s,
    )
    return settings, lambda _: run_fleet(settings, progress=values.progress)


def _fidelity(values: flags.FlagValues) -> tuple[object, Suite]:
    engine = engine_config(values, model="demo")
    settings = FidelitySettings(
        requests=request_settings(
            values, engine=dataclasses.replace(engine, prefix_cache=False)
        ),
        policies=tuple(values.policies)
        if values["policies"].present
        else ("consolidate",),
        instances=values.instances,
        epoch_s=values.epoch_s,
        slice_s=values.slice_s,
        pace=optional_path(values.pace),
        clock=values.fleet_clock if values.pace else "wall",
        load=LoadSettings(repeats=values.repeats or 2, seed=values.seed),
    )
    return settings, lambda _: run_fidelity(settings, progress=values.progress)


def _migration(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = MigrationSettings(
        engine=engine_config(values, model="random:long"),
        instances=values.instances,
        repeats=values.repeats or 5,
        seed=values.seed,
    )
    return settings, lambda _: run_migration(settings, progress=values.progress)


def _service(values: flags.FlagValues) -> tuple[object, Suite]:
    engine = engine_config(values, model="demo")
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


def _grammar(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = GrammarSettings(
        tokenizer=optional_path(values.tokenizer),
        steps=values.steps,
        repeats=values.repeats or 5,
        seed=values.seed,
    )
    return settings, lambda _: run_grammar(settings, progress=values.progress)


def _rl(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = RlSettings(
        engine=engine_config(values, model="random:110m"),
        repeats=values.repeats or 5,
        seed=values.seed,
    )
    return settings, lambda _: run_rl(settings, progress=values.progress)


def _deterministic(values: flags.FlagValues) -> tuple[object, Suite]:
    engine = engine_config(values, model="demo")
    rows = engine.max_rows or 32
    settings = DeterministicSettings(
        engine=dataclasses.replace(engine, max_rows=rows, prefix_cache=False),
        batches=_sizes(values.batch_sizes or (1, rows)),
        step_tokens=(rows, 4 * rows),
        prompt_tokens=values.prompt_tokens or 400,
        new_tokens=min(values.new_tokens, 64),
        repeats=values.repeats or 5,
        seed=values.seed,
    )
    return settings, lambda _: run_deterministic(settings, progress=values.progress)


def _hosts(values: flags.FlagValues) -> tuple[object, Suite]:
    default = HostsSettings()
    sizes = _sizes(values.batch_sizes or (default.streams,))
    if len(sizes) != 1:
        raise ValueError(f"batch_sizes must be one number of streams, got {sizes}")
    settings = HostsSettings(
        parts=tuple(values.hosts_parts or default.parts),
        model=values.model or default.model,
        streams=sizes[0],
        seconds=values.seconds if values["seconds"].present else default.seconds,
        repeats=default.repeats if values.repeats is None else values.repeats,
        controlled_streams=values.controlled_streams,
        seed=values.seed,
    )
    return settings, lambda save: run_hosts(settings, save=save)


def _decode(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = DecodeSettings(
        engine=engine_config(values, model="random:110m"),
        batches=_sizes(values.batch_sizes or (1, 8, 32)),
        prompt_tokens=values.prompt_tokens or 512,
        new_tokens=values.new_tokens,
        repeats=values.repeats or 3,
        torch_python=values.torch_python,
        llama_python=values.llama_python,
        seed=values.seed,
    )
    return settings, lambda _: run_decode(settings, progress=values.progress)


def _overhead(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = OverheadSettings(
        engine=engine_config(values, model="demo"),
        batches=_sizes(values.batch_sizes or (32, 256)),
        prompt_tokens=values.prompt_tokens or 16,
        steps=values.steps,
        repeats=values.repeats or 6,
        seed=values.seed,
    )
    return settings, lambda _: run_overhead(settings, progress=values.progress)


def _startup(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = StartupSettings(
        model=values.model or "demo", repeats=values.repeats or 3
    )
    return settings, lambda _: run_startup(settings, progress=values.progress)


def _sizes(values: Sequence[str | int]) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(value) for value in values}))
    except ValueError as error:
        raise ValueError(
            f"batch_sizes must be numbers with commas between them, got {values}"
        ) from error
