"""Requests become spans of OpenTelemetry, sent to a collector over OTLP.

One span per request, named and described by the conventions for generative AI; its
parent is the client's. `mell_jax[otel]` brings the packages; they are imported when
there is somewhere to send spans to, and not before. A thread of the SDK's sends them,
and drops what a collector is too slow for.
"""

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, final

from mell_jax.frontend import Origin, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_LAST_WORDS_S = 2.0  # for a collector to take the last spans
_EXPORT_S = 5.0  # for it to take some


def origin_of(
    metadata: Mapping[str, str | bytes], *, operation: str = "text_completion"
) -> Origin:
    """Reads a call's origin from its metadata or headers in lower case."""
    found = metadata.get("traceparent", "")
    traceparent = found if isinstance(found, str) else ""
    return Origin(operation=operation, traceparent=traceparent)


def check_tracing(endpoint: str) -> None:
    """Checks that spans can be sent at all, before anything is loaded.

    Raises:
      ValueError: the packages are not installed.
    """
    needed = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
    if endpoint and not all(_is_installed(name) for name in needed):
        raise ValueError(
            "otlp_endpoint needs OpenTelemetry: pip install 'mell_jax[otel]'"
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def open_spans(endpoint: str) -> "SpanRecorder | None":
    """Sends spans to a collector, from now on; None for an empty endpoint.

    Args:
      endpoint: http://host:port, or https:// for TLS.
    """
    if not endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 an extra
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 likewise
        BatchSpanProcessor,
    )

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)
    return SpanRecorder(BatchSpanProcessor(exporter))


@final
class SpanRecorder:
    """Makes a span of each record; see `mell_jax.frontend.tracing`."""

    def __init__(self, processor: "SpanProcessor") -> None:
        """Gives spans to `processor`, which must not block."""
        from opentelemetry import trace  # noqa: PLC0415 an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 likewise
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 likewise
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 likewise
            TraceContextTextMapPropagator,
        )

        resource = Resource.create({"service.name": "mell_jax"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("mell_jax")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR

    def __call__(self, record: RequestRecord) -> None:
        """Takes a request that is over."""
        origin = record.origin
        carrier = {"traceparent": origin.traceparent}
        span = self._tracer.start_span(
            f"{origin.operation} {record.model}",
            context=self._propagator.extract(carrier),
            kind=self._kind,
            attributes=_attributes(record),
            start_time=record.start_ns,
        )
        if record.error:
            span.set_status(self._failed)
        span.end(record.end_ns)

    def close(self) -> None:
        """Sends what is left, but does not wait long for a collector that is gone."""
        thread = threading.Thread(
            target=self._provider.shutdown, name="mell-spans", daemon=True
        )
        thread.start()
        thread.join(_LAST_WORDS_S)


def _attributes(record: RequestRecord) -> dict[str, str | int | float | list[str]]:
    found: dict[str, str | int | float | list[str]] = {
        "gen_ai.operation.name": record.origin.operation,
        "gen_ai.provider.name": "mell_jax",
        "gen_ai.request.model": record.model,
    }
    if record.error:
        found["error.type"] = record.error
    outcome = record.outcome
    if outcome is None:
        return found
    found["gen_ai.request.choice.count"] = len(outcome.reasons)
    found["gen_ai.usage.input_tokens"] = outcome.prompt_tokens
    found["gen_ai.usage.output_tokens"] = outcome.generation_tokens
    found["gen_ai.response.finish_reasons"] = list(outcome.reasons)
    if outcome.first_token_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = outcome.first_token_s
    return found
