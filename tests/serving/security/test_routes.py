"""Every route of the real application, walked without a token and with poor ones.

A route that is added to any door is walked here without further ado, and fails unless
it is guarded or stands in `PUBLIC`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mell_jax.frontend.executors import Executors
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.trainer.door import TrainerDoor
from mell_jax.serving.asker import Asker
from mell_jax.serving.http import HttpRoute, make_app
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.gate import Gate
from tests.serving.harness import Harness, run, serving
from tests.serving.security.test_tokens import ALICE, PROBE, bearer, write

PUBLIC = {"/health", "/ping"}
METRICS = {"/metrics", "/fleet", "/fleet/events"}
KNOWN = {
    "/health": "GET",
    "/ping": "GET",
    "/version": "GET",
    "/metrics": "GET",
    "/fleet": "GET",
    "/fleet/events": "GET",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/tokenizer_info": "GET",
    "/v1/models": "GET",
    "/v1/models/": "GET",
    "/v1/models/{name:path}": "GET",
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/{rest:path}": "POST",
}


@pytest.fixture
def tokens_file(tmp_path: Any) -> str:
    return write(tmp_path / "tokens.json")


def routes_of(s: Harness) -> list[tuple[str, str]]:
    """(method, path) of all there are, as the application itself has them."""
    found = []
    for route in s.server.http_app().routes:
        assert isinstance(route, Route), f"{route}: nobody knows how to walk this one"
        found += [(method, route.path) for method in sorted(route.methods or ())]
    return found


Call = Callable[[str, str, dict[str, str]], Coroutine[Any, Any, int]]


def walk(tokens_file: str, scenario: Callable[[Harness, Call], Any]) -> None:
    async def main() -> None:
        security = SecurityConfig(tokens_file=tokens_file)
        async with (
            serving(http_port=0, security=security) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):

            async def ask(method: str, path: str, headers: dict[str, str]) -> int:
                where = re.sub(r"\{.*\}", "letters", path)
                async with client.stream(method, where, headers=headers) as answer:
                    return answer.status_code  # some answers never end

            await scenario(s, ask)

    run(main)


def test_no_route_but_the_public_ones_answers_without_a_token(tokens_file: str) -> None:
    async def scenario(s: Harness, ask: Call) -> None:
        routes = routes_of(s)
        assert {(method, path) for path, method in KNOWN.items()} <= set(routes)
        for headers in ({}, bearer("x" * 20), {"authorization": f"Basic {ALICE}"}):
            told = [(path, await ask(method, path, headers)) for method, path in routes]
            assert {path for path, status in told if status == 200} == PUBLIC
            assert {status for path, status in told if path not in PUBLIC} == {401}
        assert s.engine.submits == []

    walk(tokens_file, scenario)


def test_no_route_of_operators_is_public(tokens_file: str) -> None:
    async def scenario() -> None:
        routes = TrainerDoor(Controls(lambda _: Future())).routes()
        assert {route.right for route in routes} == {"admin"}
        assert not any(route.is_public for route in routes)
        security = SecurityConfig(tokens_file=tokens_file)
        async with (
            serving(http_port=0, admin_http_port=0, security=security) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            assert not {path for _, path in routes_of(s)} & {r.path for r in routes}
            for route in routes:
                method = route.methods[0]
                answer = await client.request(method, route.path, headers=bearer(ALICE))
                assert answer.status_code == 404, route.path

    run(scenario)


def test_a_token_opens_what_its_rights_say(tokens_file: str) -> None:
    async def scenario(s: Harness, ask: Call) -> None:
        told = {
            name: {
                path: await ask(method, path, bearer(token))
                for path, method in KNOWN.items()
            }
            for name, token in (("generate", ALICE), ("metrics", PROBE))
        }
        opened = dict(told["generate"])
        assert {opened.pop(path) for path in METRICS} == {403}
        assert opened.pop("/v1/{rest:path}") == 404
        assert opened.pop("/tokenizer_info") == 400  # there is no tokenizer
        for path, status in opened.items():  # without a body
            assert status == (400 if KNOWN[path] == "POST" else 200), path
        forbidden = {path for path, status in told["metrics"].items() if status == 403}
        assert forbidden == set(KNOWN) - PUBLIC - METRICS
        assert {told["metrics"][path] for path in METRICS} == {200}

    walk(tokens_file, scenario)


def test_a_route_is_guarded_by_default_and_a_public_one_hears_of_nobody(
    tokens_file: str,
) -> None:
    async def who(request: Request, asker: Asker) -> Response:
        caller = asker.caller
        return PlainTextResponse(f"{caller.tenant!r} {caller.may_send_special_tokens}")

    async def no_scrape() -> Any:
        raise AssertionError("nobody asks for it")

    app = make_app(
        trouble=lambda: "",
        scrape=no_scrape,
        executors=Executors(clock=time.monotonic),
        gate=Gate(tokens_file),
        routes=[
            HttpRoute(path="/new", endpoint=who),
            HttpRoute(path="/open", endpoint=who, is_public=True),
        ],
    )
    with TestClient(app) as client:
        refused = client.get("/new", headers={"x-request-id": "r-1"})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["x-request-id"] == "r-1"
        assert client.get("/new", headers=bearer(ALICE)).text == "'alice' False"
        assert client.get("/open", headers=bearer(ALICE)).text == "'' False"


def test_what_an_endpoint_raises_is_told_as_a_problem() -> None:
    async def broken(request: Request, asker: Asker) -> Response:
        await asyncio.sleep(0)
        raise RuntimeError("a secret")

    async def no_scrape() -> Any:
        raise AssertionError("nobody asks for it")

    app = make_app(
        trouble=lambda: "",
        scrape=no_scrape,
        executors=Executors(clock=time.monotonic),
        gate=Gate(""),
        routes=[HttpRoute(path="/new", endpoint=broken)],
    )
    with TestClient(app) as client:
        answer = client.get("/new")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text


def test_a_browser_may_ask_before_it_shows_a_token_and_learns_nothing_else(
    tokens_file: str,
) -> None:
    page = {"origin": "https://page.example"}
    asks = {"access-control-request-method": "POST"}

    async def scenario() -> None:
        security = SecurityConfig(tokens_file=tokens_file)
        async with (
            serving(
                http_port=0, security=security, cors_origins=tuple(page.values())
            ) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            path = "/v1/completions"
            first = await client.options(path, headers={**page, **asks})
            assert first.status_code == 200
            assert first.headers["access-control-allow-origin"] == page["origin"]
            for origin in ("https://page.example.evil", "http://page.example", "null"):
                other = await client.options(path, headers={"origin": origin, **asks})
                assert other.status_code == 400
                assert "access-control-allow-origin" not in other.headers
            for answer in (
                await client.options("/v1/other", headers=page),  # no preflight
                await client.post(path, headers=page),
                await client.get("/v1/models", headers={**page, **asks}),
            ):
                assert answer.status_code == 401

    run(scenario)
