"""Defines the flags of mell-bench, grouped as --help shows them."""

from typing import Any

from absl import flags

from mell_jax.engine.config import EngineConfig, ModelsConfig
from mell_jax.settings.flags import define_flags
from mell_jax.settings.setting import settings_of

ENGINE_SETTINGS = tuple(
    one for one in settings_of(EngineConfig(), table="engine") if one.is_flag
)
"""The settings of the engine that a benchmark has flags for."""
MESH_SETTINGS = tuple(
    one
    for one in settings_of(ModelsConfig(), table="engine")
    if one.name in ("mesh", "devices")
)
"""Those that say how many instances a profile is measured with."""
SUITES = ("serving", "profile")
"""What `mell-bench` measures; others are measured in a checkout of the project."""
_ENGINE_TITLE = "the engine in this process"


def define_common(values: flags.FlagValues) -> None:
    """Defines what every benchmark takes, and the engine in this process."""
    group: dict[str, Any] = {"flag_values": values, "module_name": "the run"}
    flags.DEFINE_string(
        "model",
        None,
        "A model directory is measured, or demo, or random:110m, random:demo, "
        "random:tiny: random weights of that shape.",
        **group,
    )
    flags.DEFINE_string(
        "output_json", None, "All figures are written to this file.", **group
    )
    flags.DEFINE_integer(
        "seed", 0, "Prompts, lengths and arrivals are drawn from this seed.", **group
    )
    flags.DEFINE_bool("progress", True, "Bars are shown while it runs.", **group)
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
        "address",
        "",
        "Requests go to this server, host:port; empty: to an engine here.",
        **group,
    )
    flags.DEFINE_string(
        "trace",
        None,
        "This .csv or .csv.gz has a header: input_tokens, output_tokens and perhaps "
        "arrival_s and model. Without it lengths are drawn, log-normal.",
        **group,
    )
    flags.DEFINE_string("trace_model", "", "Only rows of this model are used.", **group)
    flags.DEFINE_integer(
        "num_requests", 200, "At most this many requests are sent.", **group
    )
    flags.DEFINE_integer(
        "input_tokens", 200, "Inputs that are drawn have this median.", **group
    )
    flags.DEFINE_integer(
        "output_tokens", 100, "Outputs that are drawn have this median.", **group
    )
    flags.DEFINE_string(
        "length_scale",
        "1",
        "All lengths are multiplied by it; auto: so that 99% fit the context. The rest "
        "is left out and counted.",
        **group,
    )
    flags.DEFINE_float(
        "request_rate",
        None,
        "So many requests come in a second (Poisson), or inf: all at once; by default "
        "they come as in the trace, or all at once without it.",
        **group,
    )
    flags.DEFINE_float(
        "time_scale",
        1.0,
        "The trace's arrivals are multiplied by it; 0.5 is twice as fast.",
        **group,
    )
    flags.DEFINE_integer(
        "max_concurrency", None, "At most this many requests are open.", **group
    )
    flags.DEFINE_string(
        "text", None, "Prompts come from this file instead of random ids.", **group
    )
    flags.DEFINE_string(
        "tokenizer",
        None,
        "This folder has the tokenizer for --text; by default the model's.",
        **group,
    )
    flags.DEFINE_float(
        "temperature",
        0.0,
        "Tokens are drawn at this temperature; 0 takes the likeliest.",
        **group,
    )


def define_suites(values: flags.FlagValues) -> None:
    """Defines what is measured by `mell-bench`, and what its profile takes."""
    flags.DEFINE_enum(
        "suite",
        "serving",
        SUITES,
        "Serving is measured as users feel it, or a profile of the engine here, with "
        "which mell-simulate and mell-plan reckon.",
        flag_values=values,
        module_name="the run",
    )
    title = "the profile"
    flags.DEFINE_string(
        "profile",
        "profile.json",
        "The profile is written to this file.",
        flag_values=values,
        module_name=title,
    )
    define_flags(MESH_SETTINGS, values=values, titles={"engine": title})
