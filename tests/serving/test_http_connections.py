"""Connections as proxies and pooled clients use them, and as attackers do."""

import asyncio

import httpx2
import pytest

from tests.serving.harness import run, serving

POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"prompt": "c", "max_tokens": 1}'


async def exchange(address: str, data: bytes) -> tuple[bytes, bool]:
    """The first answer to some bytes, and whether the connection was closed then."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    body = await reader.readexactly(length)
    try:
        is_closed = await asyncio.wait_for(reader.read(1), timeout=0.3) == b""
    except TimeoutError:
        is_closed = False
    writer.close()
    return head + body, is_closed


def test_a_pooled_connection_outlives_the_pause_between_two_requests() -> None:
    """uvicorn's own 5 s reset what clients keep for as long as proxies do."""

    async def scenario() -> None:
        async with serving(http_port=0) as s, httpx2.AsyncClient() as client:
            assert (await client.get(f"http://{s.http}/health")).status_code == 200
            connection = next(iter(s.server._http._server.server_state.connections))
            assert connection.timeout_keep_alive == 75
            await asyncio.sleep(0.2)
            assert (await client.get(f"http://{s.http}/health")).status_code == 200
            kept = s.server._http._server.server_state.connections
            assert next(iter(kept)) is connection

    run(scenario)


def test_the_pause_can_be_set_and_ends_the_connection() -> None:
    async def scenario() -> None:
        async with serving(http_port=0, keep_alive_s=1.0) as s:
            request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
            host, port = s.http.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            await reader.readuntil(b"ok\n")
            writer.write(request)
            await reader.readuntil(b"ok\n")
            assert await asyncio.wait_for(reader.read(), timeout=10) == b""
            writer.close()

    run(scenario)


def test_two_lengths_of_a_body_are_refused_and_the_connection_closed() -> None:
    async def scenario() -> None:
        async with serving(http_port=0) as s:
            answer, is_closed = await exchange(
                s.http,
                POST
                + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                + b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
            )
            assert answer.startswith(b"HTTP/1.1 400")
            assert is_closed

    run(scenario)


@pytest.mark.parametrize(("size", "status"), [(8_000, 200), (17_000, 431)])
def test_a_head_is_bounded_however_it_comes(size: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(http_port=0) as s:
            answer, is_closed = await exchange(
                s.http,
                b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: "
                + b"a" * size
                + b"\r\n\r\n",
            )
            assert answer.startswith(f"HTTP/1.1 {status}".encode())
            assert is_closed is (status == 431)

    run(scenario)


def test_web_pages_of_other_origins_may_call_only_if_told() -> None:
    async def scenario() -> None:
        origin = {"origin": "https://page.example"}
        asked = {
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        async with (
            serving(http_port=0, cors_origins=("https://page.example",)) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            first = await client.options("/v1/chat/completions", headers=asked)
            assert first.status_code == 200
            allowed = first.headers["access-control-allow-headers"]
            assert "authorization" in allowed.lower()
            answer = await client.get("/v1/models", headers=origin)
            assert answer.headers["access-control-allow-origin"] == origin["origin"]
            other = await client.get(
                "/v1/models", headers={"origin": "https://other.example"}
            )
            assert "access-control-allow-origin" not in other.headers
        async with (
            serving(http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            answer = await client.get("/v1/models", headers=origin)
            assert "access-control-allow-origin" not in answer.headers

    run(scenario)


def test_a_slash_behind_models_changes_nothing() -> None:
    async def scenario() -> None:
        async with (
            serving(http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            plain = (await client.get("/v1/models")).json()
            assert (await client.get("/v1/models/")).json() == plain
            assert plain["object"] == "list"
            missing = await client.get("/v1/embeddings")
            assert "there is no GET /v1/embeddings here" in missing.text

    run(scenario)
