"""The page and its events over HTTP: for whom they are, and how they end."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.thread import EngineThread
from mell_jax.serving.page.feed import MOST_WATCHERS
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.server import Server
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.serving.harness import ids_request, listening, run
from tests.serving.page.watched_engine import WatchedEngine
from tests.serving.processes.stage import Stage, perform
from tests.serving.security.test_tokens import ALICE, PROBE, bearer, write

MODELS = [ServedModel(name="letters", path="")]


@asynccontextmanager
async def watched(
    **config: Any,
) -> AsyncIterator[tuple[WatchedEngine, Server, httpx2.AsyncClient]]:
    engine = WatchedEngine()
    async with (
        listening(engine, models=MODELS, http_port=0, **config) as (server, addresses),
        httpx2.AsyncClient(base_url=f"http://{addresses.http}", timeout=50) as client,
    ):
        yield engine, server, client


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def password(token: str, *, user: str = "") -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{token}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


def test_the_page_comes_with_what_a_browser_may_do_with_it() -> None:
    async def scenario() -> None:
        async with watched() as (_, _, client):
            page = await client.get("/fleet")
            assert page.status_code == 200
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["cache-control"] == "no-store"
            assert page.text.startswith("<!doctype html>")

    run(scenario)


def test_moments_come_as_events_and_a_new_one_as_soon_as_there_is_one() -> None:
    async def scenario() -> None:
        async with (
            watched() as (engine, server, client),
            client.stream("GET", "/fleet/events") as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-cache"
            moments = events_of(answer.aiter_lines())
            first = await anext(moments)
            assert (first["number"], first["in_use"]) == (1, 1)
            engine.number = 2
            assert (await anext(moments))["number"] == 2
            assert server._feed.num_watchers == 1

    run(scenario)


def test_who_goes_makes_room_for_others() -> None:
    async def scenario() -> None:
        async with watched() as (_, server, client):
            async with client.stream("GET", "/fleet/events") as answer:
                await anext(events_of(answer.aiter_lines()))
            while server._feed.num_watchers:  # the server hears of it
                await asyncio.sleep(0)
            server._feed.num_watchers = MOST_WATCHERS
            full = await client.get("/fleet/events")
            assert full.status_code == 429
            assert full.headers["retry-after"] == "10"
            assert "64 watch the fleet already" in full.json()["error"]["message"]
            server._feed.num_watchers = 0

    run(scenario)


def test_the_end_of_the_server_ends_what_is_watched() -> None:
    async def scenario() -> None:
        async with (
            watched() as (_, server, client),
            client.stream("GET", "/fleet/events") as answer,
        ):
            moments = events_of(answer.aiter_lines())
            await anext(moments)
            await asyncio.wait_for(server.stop("it is over"), timeout=10)
            assert [moment async for moment in moments] == []

    run(scenario)


@pytest.mark.parametrize("path", ["/fleet", "/fleet/events"])
def test_it_is_for_those_who_may_read_metrics(path: str, tmp_path: Path) -> None:
    security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))

    async def status(client: httpx2.AsyncClient, headers: dict[str, str]) -> int:
        async with client.stream("GET", path, headers=headers) as answer:
            if answer.status_code == 401:
                asked = answer.headers["www-authenticate"]
                assert asked.startswith("Basic realm=")
            return answer.status_code

    async def scenario() -> None:
        async with watched(security=security) as (_, _, client):
            for shown, wanted in (
                ({}, 401),
                (bearer(PROBE), 200),
                (password(PROBE), 200),
                (password(PROBE, user="anybody"), 200),
                (bearer(ALICE), 403),
                (password(ALICE), 403),
                (password(PROBE + "x"), 401),
                (password("", user=PROBE), 401),
                ({"authorization": f"Basic {PROBE}"}, 401),
                ({"authorization": "Basic /w=="}, 401),
                ({"authorization": "Basic"}, 401),
            ):
                assert await status(client, shown) == wanted, shown

    run(scenario)


def test_no_other_route_takes_a_password(tmp_path: Path) -> None:
    security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))

    async def scenario() -> None:
        async with watched(security=security) as (_, _, client):
            for path, token in (("/metrics", PROBE), ("/v1/models", ALICE)):
                refused = await client.get(path, headers=password(token))
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                told = await client.get(path, headers=bearer(token))
                assert told.status_code == 200

    run(scenario)


async def ask(stub: pb_grpc.VllmEngineStub, number: int) -> int:
    """Streams an answer to a request full of a client's words; its tokens."""
    request = ids_request(
        *[number + 1] * 9,
        request_id=f"secret-{number}",
        temperature=0.0,
        max_tokens=30,
    )
    call = stub.Generate(request, metadata=[("x-mell-tenant", "secret-tenant")])
    return sum([len(part.chunk.token_ids) async for part in call])


def test_nothing_that_a_client_said_is_shown() -> None:
    async def scenario() -> None:
        fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1), epoch_s=0.2))
        engine = EngineThread(fleet, compilations=CompilationCounter())
        server = listening(
            engine, models=[ServedModel(name="toy", path="")], http_port=0
        )
        async with (
            server as (_, addresses),
            httpx2.AsyncClient(base_url=f"http://{addresses.http}", timeout=50) as http,
            grpc.aio.insecure_channel(addresses.grpc) as channel,
            http.stream("GET", "/fleet/events") as answer,
        ):
            stub = pb_grpc.VllmEngineStub(channel)
            asked = asyncio.gather(*(ask(stub, number) for number in range(10)))
            told, lines = "", answer.aiter_lines()
            while '"tokens":300,' not in told:
                told += await anext(lines)
            assert await asked == [30] * 10
            assert "secret" not in told
            assert '"ticks":[' in told and '"moves":[[' in told

    run(scenario)


def test_every_front_end_shows_the_same_fleet() -> None:
    def script(stage: Stage) -> None:
        with stage.each_http() as doors:
            assert len(doors) == 2
            for door in doors.values():
                door.request("GET", "/fleet/events")
                answer = door.getresponse()
                assert answer.status == 200
                while not (line := answer.readline()).startswith(b"data: "):
                    assert line
                moment = json.loads(line.removeprefix(b"data: "))
                assert moment["dots"]["numbers"] == [4, 9]
                assert moment["lanes"][0]["ticks"] == [29.5, 29.62]

    assert perform(script, engine=WatchedEngine(), frontends=2, http_port=0) == ""
