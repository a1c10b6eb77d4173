"""Defines the flags of the benchmarks, grouped as --help shows them."""

import sys
from typing import Any

from absl import flags

from mell_jax.bench.flags import define_common, define_requests

SUITES = (
    "decode",
    "overhead",
    "startup",
    "kernels",
    "gpu",
    "fleet",
    "fidelity",
    "migration",
    "service",
    "grammar",
    "rl",
    "deterministic",
    "hosts",
)
DEVICE_SUITES = ("kernels", "gpu")
"""These need nothing but jax and flax."""


def define_flags() -> flags.FlagValues:
    """Returns all flags, in a registry of their own."""
    values = flags.FlagValues()
    group: dict[str, Any] = {"flag_values": values, "module_name": "all suites"}
    flags.DEFINE_enum("suite", None, SUITES, "This part is measured.", **group)
    define_common(values)
    define_requests(values)
    _define_engine(values)
    _define_service(values)
    _define_kernels(values)
    _define_fleet(values)
    _define_hosts(values)
    return values


def _define_engine(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {
        "flag_values": values,
        "module_name": "decode, overhead, startup, migration, service, grammar, rl",
    }
    flags.DEFINE_list(
        "batch_sizes",
        None,
        "These batches are measured; by default 1,8,32 (decode), 32,256 (overhead) and "
        "1,64,512,1024 streams (service); one number of streams, 32 (hosts).",
        **group,
    )
    flags.DEFINE_integer(
        "prompt_tokens",
        None,
        "A prompt has so many; by default 512 (decode) and 16 (overhead).",
        **group,
    )
    flags.DEFINE_integer(
        "new_tokens", 128, "A sequence gets so many (decode).", **group
    )
    flags.DEFINE_integer(
        "repeats",
        None,
        "So many turns, starts or kills are made; by default 3, 6 (overhead), 5 "
        "(grammar, rl, hosts) or 2 (fidelity).",
        **group,
    )
    flags.DEFINE_integer(
        "steps", 100, "A turn has so many decode steps (overhead, grammar).", **group
    )
    flags.DEFINE_string(
        "torch_python",
        sys.executable,
        "This Python has torch and transformers (decode, kernels); empty: without.",
        **group,
    )
    flags.DEFINE_string(
        "llama_python",
        "",
        "This Python has xllamacpp and gguf (decode); empty: without llama.cpp.",
        **group,
    )


def _define_service(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "service"}
    flags.DEFINE_integer(
        "frontends",
        1,
        "So many processes talk to clients; 0: the engine's does.",
        **group,
    )
    flags.DEFINE_float(
        "service_step_ms", 20.0, "So much time passes between tokens.", **group
    )
    flags.DEFINE_float(
        "seconds", 5.0, "Each number of streams and each part takes so long.", **group
    )
    flags.DEFINE_list(
        "service_parts",
        "streams,flood,fairness,cancels",
        "These are measured; fairness, cancels and churn serve --model for real.",
        **group,
    )
    flags.DEFINE_float(
        "churn_minutes", 0.0, "Requests come and go for so long; 0: without.", **group
    )


def _define_kernels(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "kernels, gpu"}
    flags.DEFINE_list(
        "parts",
        None,
        "These are measured, on a GPU, always in this order: check, ceilings, decode, "
        "quantized, prefill, moves, step, torch (kernels); thunks, dispatch, sharing, "
        "speed, kernels, moves, flags (gpu). By default all.",
        **group,
    )
    flags.DEFINE_bool(
        "tune", False, "Tile sizes are tried, too; the best go out (kernels).", **group
    )
    flags.DEFINE_bool(
        "rehearse", False, "Every part runs with tiny sizes, on any device.", **group
    )


def _define_fleet(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "fleet, fidelity"}
    flags.DEFINE_list(
        "policies",
        ["consolidate", "mell", "best_fit", "load_balance"],
        "These serve the same requests, one after the other.",
        **group,
    )
    flags.DEFINE_integer(
        "instances", 8, "So many are made, on one device each if there are.", **group
    )
    flags.DEFINE_list(
        "models",
        [],
        "The model is served under each of these names of the trace's model column, as "
        "if they were different ones, on the same devices.",
        **group,
    )
    flags.DEFINE_float("epoch_s", 1.0, "Consolidations are this far apart.", **group)
    flags.DEFINE_enum(
        "fleet_clock",
        "devices",
        ("devices", "wall"),
        "Time is that of devices of the speeds below, or the wall's.",
        **group,
    )
    flags.DEFINE_float(
        "step_ms", 30.0, "A device's decode step takes so long.", **group
    )
    flags.DEFINE_float(
        "prefill_tokens_per_s", 8000.0, "A device prefills at this rate.", **group
    )
    flags.DEFINE_string(
        "pace",
        None,
        "This profile says how long steps take at least; by default they take as long "
        "as they do (fidelity).",
        **group,
    )
    flags.DEFINE_float(
        "slice_s", None, "Requests that come later are left out (fidelity).", **group
    )


def _define_hosts(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "hosts"}
    flags.DEFINE_list(
        "hosts_parts",
        None,
        "These are measured, of tokens, recovery, controller, move. By default all; "
        "--model and --seconds are those of tokens.",
        **group,
    )
    flags.DEFINE_integer(
        "controlled_streams", 100_000, "A controller decides for so many.", **group
    )
