"""Health and metrics over HTTP, asked by a client that we did not write."""

import asyncio
import socket
import time

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import Message

from mell_jax.frontend import OverloadedError
from mell_jax.frontend.executors import Executors
from mell_jax.serving.address import BindError, check_addresses
from mell_jax.serving.asker import Asker
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.http import HttpRoute, HttpServer, make_app
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.metrics import Scrape
from mell_jax.serving.problem import MalformedMessageError
from mell_jax.serving.security.gate import Gate
from tests.serving.harness import Harness, ids_request, run, serving
from tests.serving.test_metrics import scrape


async def get(s: Harness, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.get(f"http://{s.http}{path}", headers=headers)


async def values(s: Harness) -> dict[str, float]:
    """Metrics by name and labels, as Prometheus would read them."""
    text = (await get(s, "/metrics")).text
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped() -> Scrape:
    return scrape()


def test_without_a_port_there_is_no_http() -> None:
    async def scenario() -> None:
        async with serving() as s:
            assert s.http is None

    run(scenario)


def test_health_says_whether_requests_are_taken() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True, http_port=0) as s:
            answer = await get(s, "/health")
            assert (answer.status_code, answer.text) == (200, "ok\n")
            call = s.stub.Generate(ids_request(1, max_tokens=1))
            await s.until(lambda: len(s.engine.submits) == 1)
            drained = asyncio.ensure_future(s.server.drain(hurry=asyncio.Event()))
            await asyncio.sleep(0)  # let it begin
            answer = await get(s, "/health")
            assert (answer.status_code, answer.text) == (503, "shutting down\n")
            assert (await values(s))["mell:serving"] == 0
            s.engine.step()
            assert [x async for x in call]
            await drained
            with pytest.raises(httpx2.ConnectError):
                await get(s, "/health")

    run(scenario)


def test_a_dead_engine_is_not_healthy() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True, http_port=0) as s:
            s.engine.die("the device is lost")
            assert await s.server.front_end.wait_stopped()
            answer = await get(s, "/health")
            assert (answer.status_code, answer.text) == (503, "the engine failed\n")

    run(scenario)


def test_metrics_show_what_streams_got() -> None:
    async def scenario() -> None:
        async with serving(http_port=0) as s:
            await s.collect(ids_request(1, 2, max_tokens=4))
            seen = await values(s)
            assert seen["mell:prompt_tokens_total,letters"] == 2
            assert seen["mell:generation_tokens_total,letters"] == 4
            assert seen["mell:request_success_total,length,letters"] == 1
            assert seen["mell:request_success_total,stop,letters"] == 0
            assert seen["mell:time_to_first_token_seconds_count,letters"] == 1
            assert seen["mell:inter_token_latency_seconds_count,letters"] == 3
            assert seen["mell:num_requests_running,letters"] == 0
            assert seen["mell:num_requests_waiting,letters"] == 2
            assert seen["mell:kv_cache_usage_perc,letters"] == 0.3
            assert seen["mell:prefix_cache_hits_total,letters"] == 30
            assert seen["mell:serving"] == 1
            assert seen["process_resident_memory_bytes"] > 1e6
            assert not any(name.startswith("vllm:") for name in seen)

    run(scenario)


def test_names_of_vllm_are_shown_on_request() -> None:
    async def scenario() -> None:
        async with serving(http_port=0, shows_vllm_names=True) as s:
            await s.collect(ids_request(1, 2, max_tokens=4))
            seen = await values(s)
            assert seen["vllm:generation_tokens_total,letters"] == 4
            assert seen["mell:generation_tokens_total,letters"] == 4
            assert "vllm:devices_in_use" not in seen

    run(scenario)


def test_names_keep_their_colons_whatever_format_is_asked_for() -> None:
    async def scenario() -> None:
        async with serving(http_port=0) as s:
            accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
            answer = await get(s, "/metrics", accept=accept)
            kind = answer.headers["content-type"]
            assert kind == "text/plain; version=0.0.4; charset=utf-8"
            assert 'mell:num_requests_waiting{model_name="letters"} 2.0' in answer.text
            assert (await get(s, "/other")).status_code == 404

    run(scenario)


def test_a_taken_http_port_is_refused() -> None:
    async def scenario() -> None:
        async with serving(http_port=0) as s:
            assert s.http is not None
            port = int(s.http.rpartition(":")[2])
            rule = rf"cannot listen on 127\.0\.0\.1:{port}: .*choose .* --http_port"
            with pytest.raises(BindError, match=rule):
                check_addresses(ServerConfig(port=0, http_port=port))

    run(scenario)


def test_an_open_connection_does_not_keep_a_server_alive() -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = HttpServer(
            make_app(
                trouble=lambda: "",
                scrape=scraped,
                executors=Executors(clock=time.monotonic),
                gate=Gate(""),
            ),
            listener=listener,
        )
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await asyncio.wait_for(server.stop(), timeout=20)
        assert (await reader.read()).endswith(b"ok\n")
        writer.close()

    run(scenario)


def test_a_server_that_never_started_gives_its_port_back() -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        app = make_app(
            trouble=lambda: "",
            scrape=scraped,
            executors=Executors(clock=time.monotonic),
            gate=Gate(""),
        )
        await HttpServer(app, listener=listener).stop()
        assert listener.fileno() == -1

    run(scenario)


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def scenario() -> None:
        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        with pytest.raises(MalformedMessageError, match=r"not come within 0\.01 s"):
            await Bodies(timeout_s=0.01).read(request)

    run(scenario)


def test_above_so_many_connections_requests_are_turned_away() -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        app = make_app(
            trouble=lambda: "",
            scrape=scraped,
            executors=Executors(clock=time.monotonic),
            gate=Gate(""),
        )
        server = HttpServer(app, listener=listener, max_connections=2)
        await server.start()
        connections = []
        for status in (b"200", b"200", b"503"):
            connections.append(
                await asyncio.open_connection(*listener.getsockname()[:2])
            )
            connections[-1][1].write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await connections[-1][0].readline()).split()[1] == status
        for _, writer in connections:
            writer.close()
        await server.stop()

    run(scenario)


def test_a_connection_that_asks_for_nothing_is_closed() -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        app = make_app(
            trouble=lambda: "",
            scrape=scrape,
            executors=Executors(clock=time.monotonic),
            gate=Gate(""),
        )
        server = HttpServer(app, listener=listener, max_head_s=0.5)
        await server.start()
        place = listener.getsockname()[:2]
        silent, other = await asyncio.open_connection(*place)
        slow, writer = await asyncio.open_connection(*place)
        writer.write(b"GET /health HTTP/1.1\r\n")  # and no more
        ends = asyncio.gather(silent.read(), slow.read())
        async with httpx2.AsyncClient() as client:  # keeps its connection
            while not ends.done():
                answer = await client.get(f"http://127.0.0.1:{place[1]}/health")
                assert answer.status_code == 200
                await asyncio.sleep(0.1)
        assert await ends == [b"", b""]
        other.close()
        writer.close()
        await server.stop()

    run(scenario)


def test_a_client_that_leaves_its_body_unfinished_is_no_fault_of_ours() -> None:
    async def scenario() -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        with pytest.raises(MalformedMessageError, match="ended before its end"):
            await Bodies().read(request)

    run(scenario)


def test_bodies_are_bounded_together_and_free_again() -> None:
    async def scenario() -> None:
        bodies = Bodies(max_bytes=10)
        rest = asyncio.Event()

        def request(*parts: bytes, waits: bool = False) -> Request:
            left = list(parts)

            async def receive() -> Message:
                if waits and len(left) == 1:
                    await rest.wait()
                part = left.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(left)}

            return Request({"type": "http", "method": "POST", "headers": []}, receive)

        slow = asyncio.ensure_future(
            bodies.read(request(b"12345678", b"9", waits=True))
        )
        await asyncio.sleep(0)
        assert await bodies.read(request(b"ab")) == b"ab"
        with pytest.raises(OverloadedError, match="10 bytes at a time"):
            await bodies.read(request(b"abc"))
        rest.set()
        assert await slow == b"123456789"
        assert await bodies.read(request(b"abcdefghij")) == b"abcdefghij"

    run(scenario)


def test_more_routes_can_be_given() -> None:
    async def hello(request: Request, asker: Asker) -> Response:
        return PlainTextResponse(f"hello {asker.caller.tenant}")

    app = make_app(
        trouble=lambda: "",
        scrape=scraped,
        executors=Executors(clock=time.monotonic),
        gate=Gate(""),
        routes=[HttpRoute(path="/hello", endpoint=hello)],
    )
    with TestClient(app) as client:
        answer = client.get("/hello", headers={"x-mell-tenant": "alice"})
        assert answer.text == "hello alice"
        assert client.get("/health").status_code == 200
