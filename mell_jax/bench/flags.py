"""The flags of mell-bench, grouped as --help shows them."""

import sys
from typing import Any

from absl import flags

SUITES = (
    "serving",
    "decode",
    "overhead",
    "startup",
    "kernels",
    "fleet",
    "migration",
    "service",
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
