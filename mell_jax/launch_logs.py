"""Flags of `mell-serve` about what it tells of itself, and its first and last words.

Apart from `launch.py` only for their number; it alone calls what is here.
"""

import sys
from collections.abc import Sequence
from typing import cast

from absl import flags, logging

from mell_jax.events import Event, tell
from mell_jax.serving.address import Addresses
from mell_jax.serving.observe.logs import LOG_FORMATS, LogFormat, set_up_logging

_LOG_FORMAT = flags.DEFINE_enum(
    "log_format", "text", LOG_FORMATS, "Of the log: for people, or one object a line."
)
_OTLP_ENDPOINT = flags.DEFINE_string(
    "otlp_endpoint",
    "",
    "Collector that gets a span per request over OTLP, such as http://127.0.0.1:4317.",
)


def log_format_from_flags() -> LogFormat:
    """Of every process."""
    return cast("LogFormat", _LOG_FORMAT.value)


def otlp_endpoint_from_flags() -> str:
    """Empty for none."""
    return str(_OTLP_ENDPOINT.value)


def begin_log(*, is_verbose: bool) -> None:
    """Sets up the log, as the first thing of all."""
    verbosity = logging.INFO if is_verbose else logging.WARNING
    set_up_logging(log_format_from_flags(), verbosity=verbosity, process="engine")
    tell(Event.STARTING, text="mell-serve is starting")


def tell_ready(addresses: Addresses, *, models: Sequence[str], took_s: float) -> None:
    """Requests are taken."""
    names = ", ".join(models)
    tell(
        Event.READY,
        text=f"{names} served at {addresses.grpc}",
        models=names,
        grpc=addresses.grpc,
        http=addresses.http,
        health=addresses.health,
        took_s=round(took_s, 3),
    )


def complain(cause: str, *, log_format: LogFormat) -> None:
    """Says why the program ends although nobody asked for it."""
    if log_format == "json":
        tell(Event.FAILED, text=cause)
    else:
        print(f"mell-serve: {cause}", file=sys.stderr)
