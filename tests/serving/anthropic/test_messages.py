"""The Messages API through HTTP: "c" goes on "flxqcflxq..."."""

import asyncio
from pathlib import Path

import pytest

from mell_jax.serving.security.config import SecurityConfig
from tests.serving.anthropic.message_rules import check_stream
from tests.serving.harness import run
from tests.serving.openai.test_client import TEMPLATE
from tests.serving.openai.test_responses import calling, events_of
from tests.serving.security.test_tokens import ALICE, PROBE, write

BODY = {
    "model": "letters",
    "max_tokens": 6,
    "messages": [{"role": "user", "content": "c"}],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("messages") / "template.jinja"
    path.write_text(TEMPLATE)
    return path


def test_a_message_is_what_the_model_says_whole_and_in_pieces(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (s, client):
            answer = await client.post("/v1/messages", json=BODY)
            whole = answer.json()
            assert whole["content"] == [
                {"type": "text", "text": "cflxqc", "citations": None}
            ]
            assert whole["stop_reason"] == "max_tokens"
            assert whole["usage"]["output_tokens"] == 6
            assert answer.headers["request-id"] == answer.headers["x-request-id"]
            streamed = await client.post("/v1/messages", json={**BODY, "stream": True})
            message = check_stream(events_of(streamed.text))
            assert message.pop("id") != whole.pop("id")
            assert message == whole
            await s.idle()

    run(scenario)


def test_a_stop_sequence_is_named(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (_, client):
            body = {**BODY, "stop_sequences": ["zz", "xq"]}
            message = (await client.post("/v1/messages", json=body)).json()
            assert message["content"][0]["text"] == "cfl"
            assert message["stop_reason"] == "stop_sequence"
            assert message["stop_sequence"] == "xq"

    run(scenario)


def test_what_is_wrong_is_told_in_anthropics_words(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (s, client):

            async def refused(**said: object) -> tuple[int, str]:
                body = {**BODY, **said}
                answer = await client.post("/v1/messages", json=body)
                told = answer.json()
                assert told["type"] == "error"
                return answer.status_code, told["error"]["type"]

            assert await refused(model="other") == (404, "not_found_error")
            assert await refused(messages=[]) == (400, "invalid_request_error")
            assert await refused(stop_sequences=[""]) == (400, "invalid_request_error")
            assert await refused(max_tokens=5000) == (400, "invalid_request_error")
            assert await refused(pad="x" * 5_000_000) == (413, "request_too_large")
            answer = await client.post("/v1/messages", content=b"{")
            assert answer.json()["error"]["type"] == "invalid_request_error"
            answer = await client.post("/v1/messages", json={**BODY, "top_k": -7})
            assert answer.json()["error"]["message"].startswith("top_k ")
            assert s.engine.submits == []
            drained = asyncio.ensure_future(s.server.drain(hurry=asyncio.Event()))
            await asyncio.sleep(0)  # let it begin
            answer = await client.post("/v1/messages", json=BODY)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["type"] == "overloaded_error"
            await drained

    run(scenario)


def test_an_engine_that_dies_ends_a_stream_by_an_error(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template, is_manual=True) as (
            s,
            client,
        ):
            body = {**BODY, "stream": True}
            call = asyncio.ensure_future(client.post("/v1/messages", json=body))
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            s.engine.die("the device is lost")
            *_, (name, data) = events_of((await call).text)
            assert name == data["type"] == "error"
            assert data["error"]["type"] == "overloaded_error"

    run(scenario)


def test_a_token_may_come_as_an_api_key(
    letters_dir: Path, template: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))
        options = {"template": template, "security": security}
        async with calling(letters_dir, **options) as (s, client):

            async def status(**headers: str) -> tuple[int, str]:
                named = {name.replace("_", "-"): said for name, said in headers.items()}
                answer = await client.post("/v1/messages", json=BODY, headers=named)
                told = answer.json()
                return answer.status_code, told.get("error", {}).get("type", "")

            assert await status(x_api_key=ALICE) == (200, "")
            assert await status(authorization=f"Bearer {ALICE}") == (200, "")
            assert s.engine.submits[0].tenant == "alice"
            unknown = (401, "authentication_error")
            assert await status(x_api_key="x" * 20) == unknown
            assert await status(x_api_key="") == unknown
            assert await status() == unknown
            assert await status(x_api_key=PROBE) == (403, "permission_error")
            mixed = {"authorization": "Bearer none-0123456789", "x_api_key": ALICE}
            assert await status(**mixed) == unknown

    run(scenario)
