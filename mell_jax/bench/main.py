"""mell-bench: measures the engine.

    mell-bench                                         # serving, the demo model
    mell-bench --address=localhost:50051 --request_rate=8
    mell-bench --trace=azure_conv.csv.gz --length_scale=auto --max_concurrency=64
    mell-bench --suite=decode --torch_python=/path/with/transformers/bin/python
    mell-bench --suite=overhead
    mell-bench --suite=startup
    mell-bench --suite=kernels                         # on a GPU; --tune for sizes
    mell-bench --suite=fleet --trace=azure_conv.csv.gz --length_scale=auto
    mell-bench --suite=migration

--suite is one of: serving (requests against a server or in this process), decode (the
engine, its bare step and transformers side by side), overhead (what the host adds to a
step, and where), startup (seconds until ready), kernels (attention and page moves
against what the device can do), fleet (a slice of a trace on several instances under
several policies), migration (what moving requests costs them and the others). Measure
on an idle machine; its load average is printed and written with the figures.
"""

import dataclasses
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:  # they import jax: slow, and needless for --help
    from mell_jax.bench.report import Report
    from mell_jax.bench.serving import ServingSettings
    from mell_jax.engine.config import EngineConfig

SUITES = (
    "serving",
    "decode",
    "overhead",
    "startup",
    "kernels",
    "fleet",
    "migration",
)


def define_flags() -> flags.FlagValues:
    """All flags, in a registry of their own, grouped for --help."""
    values = flags.FlagValues()
    _define_common(values)
    _define_serving(values)
    _define_others(values)
    _define_fleet(values)
    return values


def _define_common(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "all suites"}
    flags.DEFINE_enum("suite", "serving", SUITES, "What to measure.", **group)
    flags.DEFINE_string(
        "model",
        None,
        "A model directory, demo, or random:110m, random:demo, random:tiny for random "
        "weights of that shape; by default demo, and random:110m for decode.",
        **group,
    )
    flags.DEFINE_string("output_json", None, "Write all figures to this file.", **group)
    flags.DEFINE_integer("seed", 0, "Of prompts, lengths and arrivals.", **group)
    flags.DEFINE_bool("progress", True, "Show bars while it runs.", **group)
    group = {"flag_values": values, "module_name": "the engine in this process"}
    flags.DEFINE_integer(
        "cpu_devices",
        None,
        "Without accelerators: show the CPU as so many devices.",
        **group,
    )
    flags.DEFINE_enum(
        "dtype", "auto", ("auto", "float32", "bfloat16"), "Of weights and KV.", **group
    )
    flags.DEFINE_integer("max_model_len", None, "Longest context, tokens.", **group)
    flags.DEFINE_integer("max_rows", None, "Sequences that run at once.", **group)
    flags.DEFINE_integer("token_budget", None, "Most tokens in a step.", **group)
    flags.DEFINE_integer("kv_pages", None, "Pages of 16 tokens.", **group)
    flags.DEFINE_bool("prefix_cache", True, "Reuse pages of equal prompts.", **group)
    flags.DEFINE_string("attention_backend", "auto", "Paged attention.", **group)
    flags.DEFINE_string("compilation_cache_dir", None, "Keeps compiled steps.", **group)


def _define_serving(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "serving and fleet"}
    flags.DEFINE_string(
        "address", "", "A server, host:port; empty for an engine here.", **group
    )
    flags.DEFINE_string(
        "trace",
        None,
        "A .csv or .csv.gz with a header: input_tokens, output_tokens and perhaps "
        "arrival_s and model. Without it lengths are drawn, log-normal.",
        **group,
    )
    flags.DEFINE_string("trace_model", "", "Only rows of this model.", **group)
    flags.DEFINE_integer("num_requests", 200, "At most this many.", **group)
    flags.DEFINE_integer("input_tokens", 200, "Median, when drawn.", **group)
    flags.DEFINE_integer("output_tokens", 100, "Median, when drawn.", **group)
    flags.DEFINE_string(
        "length_scale",
        "1",
        "Multiplies all lengths; auto: so that 99% fit the context. What does not fit "
        "is left out and counted.",
        **group,
    )
    flags.DEFINE_float(
        "request_rate",
        None,
        "Requests/s, Poisson; inf for all at once; by default the trace's arrivals, "
        "or all at once without them.",
        **group,
    )
    flags.DEFINE_float(
        "time_scale",
        1.0,
        "Multiplies the trace's arrivals; 0.5 is twice as fast.",
        **group,
    )
    flags.DEFINE_integer("max_concurrency", None, "Most open requests.", **group)
    flags.DEFINE_string(
        "text", None, "Prompts from this file instead of random ids.", **group
    )
    flags.DEFINE_string(
        "tokenizer", None, "A folder, for --text; by default the model's.", **group
    )
    flags.DEFINE_float("temperature", 0.0, "0 is greedy.", **group)


def _define_others(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {
        "flag_values": values,
        "module_name": "decode, overhead, startup and migration",
    }
    flags.DEFINE_list(
        "batch_sizes",
        None,
        "By default 1,8,32 (decode) and 32,256 (overhead).",
        **group,
    )
    flags.DEFINE_integer(
        "prompt_tokens", None, "By default 512 (decode) and 16 (overhead).", **group
    )
    flags.DEFINE_integer("new_tokens", 128, "Per sequence (decode).", **group)
    flags.DEFINE_integer(
        "repeats", None, "Turns or starts; by default 3, and 6 for overhead.", **group
    )
    flags.DEFINE_integer("steps", 100, "Decode steps per turn (overhead).", **group)
    flags.DEFINE_string(
        "torch_python",
        sys.executable,
        "A Python with torch and transformers (decode, kernels); empty: without.",
        **group,
    )
    group = {"flag_values": values, "module_name": "kernels"}
    flags.DEFINE_bool("tune", False, "Try tile sizes, and print the best.", **group)


def _define_fleet(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "fleet"}
    flags.DEFINE_list(
        "policies",
        ["consolidate", "mell", "best_fit", "load_balance"],
        "One after the other, on the same requests.",
        **group,
    )
    flags.DEFINE_integer("instances", 8, "On one device each if there are.", **group)
    flags.DEFINE_float("epoch_s", 1.0, "Between consolidations.", **group)
    flags.DEFINE_enum(
        "fleet_clock",
        "devices",
        ("devices", "wall"),
        "Time of devices of the speeds below, equal on every machine, or the wall's.",
        **group,
    )
    flags.DEFINE_float("step_ms", 30.0, "A device's decode step.", **group)
    flags.DEFINE_float("prefill_tokens_per_s", 8000.0, "A device's.", **group)


def help_text(values: flags.FlagValues) -> str:
    """What --help prints."""
    return f"{__doc__}{values.get_help()}"


def main(argv: Sequence[str]) -> int:
    """Runs one suite; returns the exit status."""
    values = define_flags()
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(help_text(values))
        return 0
    try:
        extra = values(list(argv))[1:]
    except flags.Error as error:
        print(f"mell-bench: {error}; --help lists all flags", file=sys.stderr)
        return 2
    if extra:
        print(f"mell-bench: takes flags only, got {extra[0]!r}", file=sys.stderr)
        return 2
    try:
        _measure(values, command=shlex.join(["mell-bench", *argv[1:]]))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"mell-bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(values: flags.FlagValues, *, command: str) -> None:
    from mell_jax.bench.machine import look_around  # noqa: PLC0415 it imports jax
    from mell_jax.bench.report import write_json  # noqa: PLC0415
    from mell_jax.worker.cpu_devices import use_cpu_devices  # noqa: PLC0415

    if values.cpu_devices is not None:
        use_cpu_devices(values.cpu_devices)
    settings, suite = _settle(values)
    machine = look_around()
    print(machine, file=sys.stderr)
    report = suite()
    print(report.text)
    if values.output_json is not None:
        write_json(
            Path(values.output_json),
            report=report,
            settings=settings,
            command=command,
            machine=machine,
        )


def _settle(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
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
    }
    return suites[values.suite](values)


def _serving(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
    from mell_jax.bench.serving import run_serving  # noqa: PLC0415 imports jax

    settings = _requests(values, engine=_engine(values, model="demo"))
    return settings, lambda: run_serving(settings, progress=values.progress)


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


def _fleet(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
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
        epoch_s=values.epoch_s,
        clock=values.fleet_clock,
        step_ms=values.step_ms,
        prefill_tokens_per_s=values.prefill_tokens_per_s,
    )
    return settings, lambda: run_fleet(settings, progress=values.progress)


def _migration(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
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
    return settings, lambda: run_migration(settings, progress=values.progress)


def _decode(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
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
    return settings, lambda: run_decode(settings, progress=values.progress)


def _overhead(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
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
    return settings, lambda: run_overhead(settings, progress=values.progress)


def _startup(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
    from mell_jax.bench.startup import (  # noqa: PLC0415 imports jax
        StartupSettings,
        run_startup,
    )

    settings = StartupSettings(
        model=values.model or "demo", repeats=values.repeats or 3
    )
    return settings, lambda: run_startup(settings, progress=values.progress)


def _kernels(values: flags.FlagValues) -> tuple[object, Callable[[], "Report"]]:
    from mell_jax.bench.kernels import (  # noqa: PLC0415 imports jax
        KernelSettings,
        run_kernels,
    )

    settings = KernelSettings(
        backend=values.attention_backend,
        repeats=values.repeats or 7,
        tune=values.tune,
        torch_python=values.torch_python,
        seed=values.seed,
    )
    return settings, lambda: run_kernels(settings, progress=values.progress)


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


def run() -> None:
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
