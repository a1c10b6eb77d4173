"""The flags of mell-bench, grouped as --help shows them."""

from typing import Any

from absl import flags

from mell_jax.engine.config import EngineConfig
from mell_jax.settings.flags import define_flags
from mell_jax.settings.setting import settings_of

ENGINE_SETTINGS = tuple(
    one for one in settings_of(EngineConfig(), table="engine") if one.is_flag
)
"""The settings of the engine that a benchmark has flags for."""
_ENGINE_TITLE = "the engine in this process"


def define_common(values: flags.FlagValues) -> None:
    """Defines what every benchmark takes, and the engine in this process."""
    group: dict[str, Any] = {"flag_values": values, "module_name": "the run"}
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
    group = {"flag_values": values, "module_name": _ENGINE_TITLE}
    flags.DEFINE_integer(
        "cpu_devices",
        None,
        "The CPU of a machine without accelerators is shown as this many devices.",
        **group,
    )
    define_flags(ENGINE_SETTINGS, values=values, titles={"engine": _ENGINE_TITLE})


def define_requests(values: flags.FlagValues) -> None:
    """Defines where requests go, and what they are."""
    group: dict[str, Any] = {"flag_values": values, "module_name": "the requests"}
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
