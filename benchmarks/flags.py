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
    "fleet",
    "migration",
    "service",
)


def define_flags() -> flags.FlagValues:
    """Returns all flags, in a registry of their own."""
    values = flags.FlagValues()
    group: dict[str, Any] = {"flag_values": values, "module_name": "all suites"}
    flags.DEFINE_enum("suite", None, SUITES, "The part to measure.", **group)
    define_common(values)
    define_requests(values)
    _define_others(values)
    _define_fleet(values)
    return values


def _define_others(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {
        "flag_values": values,
        "module_name": "decode, overhead, startup, migration, service",
    }
    flags.DEFINE_list(
        "batch_sizes",
        None,
        "By default 1,8,32 (decode), 32,256 (overhead); streams of service: 1,64,512,"
        "1024.",
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
    group = {"flag_values": values, "module_name": "service"}
    flags.DEFINE_integer("frontends", 1, "Processes; 0: in the engine's.", **group)
    flags.DEFINE_float("service_step_ms", 20.0, "Between tokens.", **group)
    flags.DEFINE_float(
        "seconds", 5.0, "Of each number of streams and each part.", **group
    )
    flags.DEFINE_list(
        "service_parts",
        "streams,flood,cancels",
        "Which ones; the last one and churn serve --model for real.",
        **group,
    )
    flags.DEFINE_float(
        "churn_minutes", 0.0, "Of requests that come and go; 0: without.", **group
    )
    group = {"flag_values": values, "module_name": "kernels"}
    flags.DEFINE_list(
        "parts",
        "check,ceilings,decode,quantized,prefill,moves,step,torch",
        "Which ones, on a GPU; always in this order.",
        **group,
    )
    flags.DEFINE_bool("tune", False, "Also try tile sizes; the best go out.", **group)
    flags.DEFINE_bool(
        "rehearse", False, "Every part with tiny sizes, on any device.", **group
    )


def _define_fleet(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "fleet"}
    flags.DEFINE_list(
        "policies",
        ["consolidate", "mell", "best_fit", "load_balance"],
        "One after the other, on the same requests.",
        **group,
    )
    flags.DEFINE_integer("instances", 8, "On one device each if there are.", **group)
    flags.DEFINE_list(
        "models",
        [],
        "Of the trace's model column: the model is served under each of these names "
        "as if they were different ones, on the same devices.",
        **group,
    )
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
