"""The Responses API through HTTP, asked by OpenAI's own client and by bare HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mell_jax.engine.frames import Finished, FinishReason, Handle
from mell_jax.grammar import Grammar
from tests.serving.harness import Harness, run, serving
from tests.serving.openai.response_rules import check_stream
from tests.serving.openai.test_client import TEMPLATE, error_of, talking


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("responses") / "template.jinja"
    path.write_text(TEMPLATE)
    return path


@asynccontextmanager
async def calling(
    directory: Path, *, template: Path, **options: Any
) -> AsyncIterator[tuple[Harness, httpx2.AsyncClient]]:
    async with (
        serving(
            directory=directory,
            http_port=0,
            chat_templates=(str(template),),
            **options,
        ) as s,
        httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
    ):
        yield s, client


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each event of a whole stream; comments are none."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if not block.startswith(":"):
            name, data = block.split("\n")
            assert name.startswith("event: ") and data.startswith("data: ")
            found.append((name[7:], json.loads(data[6:])))
    return found


def test_a_response_is_what_the_model_says(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):
            answer = await client.responses.create(
                model="letters", input="c", max_output_tokens=6, metadata={"a": "b"}
            )
            assert answer.output_text == "cflxqc"
            assert (answer.object, answer.model) == ("response", "letters")
            assert answer.status == "incomplete"
            assert answer.incomplete_details is not None
            assert answer.incomplete_details.reason == "max_output_tokens"
            assert answer.metadata == {"a": "b"}
            assert answer.usage is not None
            usage = answer.usage
            assert (usage.input_tokens, usage.output_tokens) == (1, 6)
            ended = await client.responses.create(input="ze", temperature=0.0)
            assert (ended.status, ended.output_text) == ("completed", "")
            await s.idle()

    run(scenario)


def test_a_stream_is_the_whole_in_pieces(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (s, client):
            body = {"input": "c", "max_output_tokens": 6, "instructions": "be brief"}
            whole = (await client.post("/v1/responses", json=body)).json()
            answer = await client.post("/v1/responses", json={**body, "stream": True})
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert "x-request-id" in answer.headers
            last = check_stream(events_of(answer.text))
            assert last["output"][0]["content"][0]["text"] == "cflxqc"
            for each in (whole, last):
                del each["id"], each["created_at"], each["output"][0]["id"]
            assert whole == last
            await s.idle()

    run(scenario)


def test_openais_client_reads_a_stream(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (_, client):
            text = ""
            async with client.responses.stream(
                model="letters",
                input="c",
                max_output_tokens=6,
                extra_body={"stop": "q"},
            ) as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        text += event.delta
                last = await stream.get_final_response()
            assert text == last.output_text == "cflx"
            assert last.status == "completed"

    run(scenario)


def test_a_conversation_goes_on_with_the_items_of_its_answers(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):
            first = await client.responses.create(
                model="letters", input="c", max_output_tokens=2
            )
            items: list[Any] = [
                {"role": "user", "content": "c"},
                *(item.to_dict() for item in first.output),
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            ]
            await client.responses.create(
                model="letters", input=items, max_output_tokens=2
            )
            prompts = [submit.prompt.tolist() for submit in s.engine.submits]
            assert prompts == [[3], [3, 3, 6, 1]]  # c, then c cf a

    run(scenario)


def test_a_schema_is_a_grammar_of_the_engine(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):
            schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
            described = {"type": "json_schema", "name": "n", "schema": schema}
            for wanted in (described, {"type": "json_object"}, {"type": "text"}):
                await client.responses.create(
                    model="letters",
                    input="c",
                    max_output_tokens=2,
                    text={"format": wanted},  # type: ignore[typeddict-item]
                )
            grammars = [submit.params.grammar for submit in s.engine.submits]
            assert grammars == [
                Grammar.from_json_schema(schema),
                Grammar.json_object(),
                None,
            ]

    run(scenario)


def test_what_is_wrong_is_told_in_openais_words(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):

            async def refused(**said: Any) -> tuple[int, Any]:
                said = {"model": "letters", "input": "c", **said}
                error = await error_of(client.responses.create(**said))
                assert isinstance(error.body, dict)
                return error.status_code, error.body["param"]

            assert await refused(model="other") == (404, None)
            assert await refused(previous_response_id="r") == (
                400,
                "previous_response_id",
            )
            assert await refused(max_output_tokens=5000) == (400, "max_output_tokens")
            assert await refused(max_output_tokens=0) == (400, "max_output_tokens")
            assert await refused(input=[]) == (400, "input")
            assert await refused(temperature=-1.0) == (400, "temperature")
            assert await refused(stream=True, max_output_tokens=5000) == (
                400,
                "max_output_tokens",
            )
            assert s.engine.submits == []

    run(scenario)


def test_fields_that_nobody_knows_are_named(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (_, client):
            body = {
                "input": "c",
                "max_output_tokens": 1,
                "zebra": 1,
                "service_tier": "x",
            }
            answer = await client.post("/v1/responses", json=body)
            assert answer.status_code == 200
            assert answer.headers["x-mell-unknown-fields"] == "zebra"

    run(scenario)


def test_an_engine_that_dies_fails_a_stream_in_its_middle(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        options = {"template": template, "is_manual": True}
        async with calling(letters_dir, **options) as (s, client):
            body = {"input": "c", "stream": True}
            call = asyncio.ensure_future(client.post("/v1/responses", json=body))
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            s.engine.die("the device is lost")
            events = events_of((await call).text)
            names = [name for name, _ in events[-2:]]
            assert names == ["error", "response.failed"]
            last = check_stream(events)
            assert last["error"]["code"] == "server_error"

    run(scenario)


def test_a_refusal_of_the_engine_has_a_status_of_its_own(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with calling(letters_dir, template=template) as (s, client):
            s.engine.fail_with[3] = Finished(
                handle=Handle(1),
                reason=FinishReason.ERROR,
                message="max_tokens is odd",
                field="max_tokens",
            )
            body = {"input": "c", "stream": True}
            answer = await client.post("/v1/responses", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "max_output_tokens"

    run(scenario)


def test_a_refusal_behind_a_comment_is_an_event(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        options = {"template": template, "is_manual": True, "sse_comment_s": 0.05}
        async with (
            calling(letters_dir, **options) as (s, client),
            client.stream(
                "POST", "/v1/responses", json={"input": "c", "stream": True}
            ) as answer,
        ):
            lines = answer.aiter_lines()
            assert await anext(lines) == ": waiting"
            s.engine.fail_with[3] = Finished(
                handle=s.engine.submits[0].handle,
                reason=FinishReason.ERROR,
                message="max_tokens is odd",
                field="max_tokens",
            )
            s.engine.step()
            rest = "\n".join([line async for line in lines]).strip() + "\n\n"
            (_, error), (name, failed) = events_of(rest)
            assert (error["code"], error["param"]) == (
                "invalid_prompt",
                "max_output_tokens",
            )
            assert name == "response.failed"
            assert failed["response"]["error"]["message"] == "max_output_tokens is odd"

    run(scenario)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_goes_away_costs_nothing(
    letters_dir: Path, template: Path, is_streamed: bool
) -> None:
    async def scenario() -> None:
        options = {"template": template, "is_manual": True}
        async with calling(letters_dir, **options) as (s, client):
            body = {"input": "c", "stream": is_streamed}
            call = asyncio.ensure_future(client.post("/v1/responses", json=body))
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            call.cancel()
            await s.until(lambda: len(s.engine.aborts) == 1)
            s.engine.step()
            await s.idle()

    run(scenario)
