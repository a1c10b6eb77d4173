"""Requests as spans: what they tell, what they never tell, and what off costs."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from mell_jax.frontend import Origin, RequestRecord
from mell_jax.frontend.meter import RequestOutcome
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.tracing import (
    SpanRecorder,
    check_tracing,
    open_spans,
    origin_of,
)
from tests.serving.fake_engine import write_letters_tokenizer
from tests.serving.harness import error_of, ids_request, run, serving
from tests.serving.kserve.asking import ask, stub_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
DONE = RequestRecord(
    origin=Origin(operation="chat", traceparent=PARENT),
    model="m",
    start_ns=1_000_000_000,
    end_ns=3_500_000_000,
    outcome=RequestOutcome(
        prompt_tokens=7,
        generation_tokens=12,
        first_token_s=0.25,
        reasons=("stop", "length"),
    ),
    error="",
)


def test_a_span_has_the_words_of_the_conventions() -> None:
    exporter = InMemorySpanExporter()
    recorder = SpanRecorder(SimpleSpanProcessor(exporter))
    recorder(DONE)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("chat m", SpanKind.SERVER)
    assert (span.start_time, span.end_time) == (1_000_000_000, 3_500_000_000)
    assert span.status.is_unset
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert span.resource.attributes["service.name"] == "mell_jax"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mell_jax",
        "gen_ai.request.model": "m",
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 12,
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.response.time_to_first_chunk": 0.25,
    }
    recorder.close()


@pytest.mark.parametrize(
    "traceparent",
    ["", "nonsense", "00-" + "0" * 32 + f"-{SPAN}-01", PARENT + "x" * 10_000, "é"],
)
def test_a_parent_that_is_none_begins_a_trace(traceparent: str) -> None:
    exporter = InMemorySpanExporter()
    recorder = SpanRecorder(SimpleSpanProcessor(exporter))
    recorder(
        RequestRecord(
            origin=Origin(traceparent=traceparent),
            model="m",
            start_ns=1,
            end_ns=2,
            outcome=None,
            error="OverloadedError",
        )
    )
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert not span.status.is_ok
    assert dict(span.attributes or {})["error.type"] == "OverloadedError"
    recorder.close()


class Collector:
    """Takes what is exported to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.address = ""

    def export(self, body: bytes, context: object) -> bytes:
        self.bodies.append(body)
        return b""  # an empty answer is one of success


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(collector.export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, handlers),)
    )
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def spans_of(collector: Collector) -> list[trace_pb2.Span]:
    """The first one first."""
    parse = trace_service_pb2.ExportTraceServiceRequest.FromString
    found = [
        span
        for body in collector.bodies
        for resource in parse(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def test_every_door_says_what_was_called_and_whose_trace_it_is(tmp_path: Path) -> None:
    async def scenario(address: str) -> None:
        async with (
            serving(
                directory=write_letters_tokenizer(tmp_path),
                http_port=0,
                otlp_endpoint=address,
                chat_templates=(str(template),),
            ) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            for path, asked in (
                ("completions", {"prompt": "a"}),
                ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
            ):
                answer = await client.post(
                    f"/v1/{path}",
                    json={"model": "letters", "max_tokens": 2, **asked},
                    headers={"Traceparent": PARENT},
                )
                assert answer.status_code == 200, answer.text
            kserve = stub_of(s.channel)
            await kserve.ModelInfer(ask(), metadata=(("traceparent", PARENT),))

    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    with collecting() as collector:
        run(lambda: scenario(collector.address))
    spans = spans_of(collector)
    assert [span.name for span in spans] == [
        "text_completion letters",
        "chat letters",
        "text_completion letters",
    ]
    assert {span.parent_span_id.hex() for span in spans} == {SPAN}


def test_a_server_sends_a_span_for_each_request_and_none_of_its_words() -> None:
    async def scenario(collector: Collector) -> None:
        async with serving(otlp_endpoint=collector.address) as s:
            await s.collect(
                ids_request(1, 2, max_tokens=4, request_id="secret-name"),
                metadata=(("traceparent", PARENT), ("x-mell-tenant", "secret-tenant")),
            )
            await error_of(s.collect(ids_request(99, max_tokens=4)))

    with collecting() as collector:
        run(lambda: scenario(collector))  # its end sends what is left
    good, bad = spans_of(collector)
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, SPAN)
    values = {each.key: each.value for each in good.attributes}
    assert values["gen_ai.request.model"].string_value == "letters"
    assert values["gen_ai.usage.input_tokens"].int_value == 2
    assert values["gen_ai.usage.output_tokens"].int_value == 4
    reasons = values["gen_ai.response.finish_reasons"].array_value.values
    assert [each.string_value for each in reasons] == ["length"]
    assert 0.0 < values["gen_ai.response.time_to_first_chunk"].double_value < 60.0
    wrong = {each.key: each.value.string_value for each in bad.attributes}
    assert wrong["error.type"] == "InvalidRequestError"
    assert not any(b"secret" in body for body in collector.bodies)


def test_a_collector_that_is_gone_holds_nothing_up() -> None:
    async def scenario() -> None:
        async with serving(otlp_endpoint="http://127.0.0.1:1") as s:
            for _ in range(3):
                await s.collect(ids_request(1, max_tokens=2))

    run(scenario)  # ends within its 60 s; the leave-taking takes two


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    assert open_spans("") is None
    code = (
        "import sys, mell_jax.serving.processes.child as c;"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')];"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_spans_need_no_jax() -> None:
    code = (
        "import sys; from mell_jax.serving.observe.tracing import open_spans;"
        "open_spans('http://127.0.0.1:1').close();"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_missing_packages_are_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_tracing("")
    monkeypatch.setattr("mell_jax.serving.observe.tracing.find_spec", lambda name: None)
    check_tracing("")
    with pytest.raises(ValueError, match=r"pip install 'mell_jax\[otel\]'"):
        check_tracing("http://collector:4317")


def test_an_endpoint_says_how_it_is_reached() -> None:
    with pytest.raises(ValueError, match="must be http://host:port, or https://"):
        ServerConfig(otlp_endpoint="collector:4317")


def test_a_traceparent_is_read_from_metadata() -> None:
    assert origin_of({"traceparent": PARENT}).traceparent == PARENT
    assert origin_of({"traceparent": b"binary"}).traceparent == ""
    assert origin_of({}, operation="chat") == Origin(operation="chat", traceparent="")
