"""OpenAI's own Python client against the letters: "c" goes on "flxqcflxq..."."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from mell_jax.engine.frames import Finished, FinishReason, Handle
from tests.serving.fake_engine import LETTERS
from tests.serving.harness import Harness, run, serving

TEMPLATE = """\
{%- if messages[0].role != 'user' and messages[0].role != 'system' -%}
  {{ raise_exception('the first message must be of the user') }}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role != 'system' -%}{{ message.content | trim }}{%- endif -%}
{%- endfor -%}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "template.jinja"
    path.write_text(TEMPLATE)
    return path


@asynccontextmanager
async def talking(
    directory: Path | None, *, template: Path | None = None, **options: Any
) -> AsyncIterator[tuple[Harness, openai.AsyncOpenAI]]:
    templates = () if template is None else (str(template),)
    async with (
        serving(
            directory=directory, http_port=0, chat_templates=templates, **options
        ) as s,
        openai.AsyncOpenAI(
            api_key="any", base_url=f"http://{s.http}/v1", max_retries=0
        ) as client,
    ):
        yield s, client


async def error_of(call: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    return caught.value


def test_a_completion_is_what_the_model_says(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):
            answer = await client.completions.create(
                model="letters", prompt="c", max_tokens=6
            )
            assert answer.object == "text_completion"
            assert answer.model == "letters"
            assert answer.id.startswith("cmpl-")
            (choice,) = answer.choices
            assert (choice.index, choice.text) == (0, "cflxqc")
            assert (choice.finish_reason, choice.logprobs) == ("length", None)
            assert answer.usage is not None
            usage = answer.usage
            assert (usage.prompt_tokens, usage.completion_tokens) == (1, 6)
            assert usage.total_tokens == 7

    run(scenario)


def test_sixteen_tokens_are_the_default_of_completions(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):
            answer = await client.completions.create(model="letters", prompt="c")
            assert answer.choices[0].text == "cflxqcflxqcflxqc"

    run(scenario)


def test_a_stream_ends_with_its_usage(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):
            stream = await client.completions.create(
                model="letters",
                prompt="c",
                max_tokens=6,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            *parts, last = chunks
            assert "".join(part.choices[0].text for part in parts) == "cflxqc"
            reasons = [part.choices[0].finish_reason for part in parts]
            assert reasons == [None] * (len(parts) - 1) + ["length"]
            assert all(part.usage is None for part in parts)
            assert last.choices == []
            assert last.usage is not None and last.usage.completion_tokens == 6
            assert len({chunk.id for chunk in chunks}) == 1

    run(scenario)


def test_prompts_may_be_texts_or_ids_one_or_many(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):

            async def texts(prompt: Any, **options: Any) -> list[str]:
                answer = await client.completions.create(
                    model="letters", prompt=prompt, max_tokens=3, **options
                )
                return [choice.text for choice in answer.choices]

            assert await texts([3]) == ["cfl"]
            assert await texts(["a", "c"]) == ["abd", "cfl"]
            assert await texts([[1], [3, 3]]) == ["abd", "flx"]
            assert await texts(["a", "c"], n=2) == ["abd", "abd", "cfl", "cfl"]
            await s.idle()

    run(scenario)


def test_many_prompts_stream_at_once(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            stream = await client.completions.create(
                model="letters",
                prompt=["a", "c", "e"],
                max_tokens=4,
                n=2,
                stream=True,
                stream_options={"include_usage": True},
            )
            texts = [""] * 6
            async for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.text
                if chunk.usage:
                    usage = chunk.usage
            assert texts == ["abdh", "abdh", "cflx", "cflx", "ejti", "ejti"]
            assert (usage.prompt_tokens, usage.completion_tokens) == (3, 24)
            await s.idle()

    run(scenario)


def test_a_stop_string_ends_a_choice(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            answer = await client.completions.create(
                model="letters", prompt="c", max_tokens=60, stop=["zz", "qc"]
            )
            choice = answer.choices[0]
            assert (choice.text, choice.finish_reason) == ("cflx", "stop")
            answer = await client.completions.create(
                model="letters", prompt="c", max_tokens=60, stop="x"
            )
            assert answer.choices[0].text == "cfl"
            await s.idle()

    run(scenario)


def test_log_probabilities_of_completions(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):
            answer = await client.completions.create(
                model="letters", prompt="c", max_tokens=3, logprobs=2
            )
            logprobs = answer.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.tokens == ["c", "f", "l"]
            assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
            assert logprobs.text_offset == [0, 1, 2]
            assert logprobs.top_logprobs is not None
            assert logprobs.top_logprobs[0] == {"c": -0.5, "d": -1.5}

    run(scenario)


def test_an_echo_comes_with_log_probabilities_of_the_prompt(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):

            async def echo(max_tokens: int, **options: Any) -> Any:
                answer = await client.completions.create(
                    model="letters",
                    prompt="ab",
                    max_tokens=max_tokens,
                    echo=True,
                    **options,
                )
                return answer

            assert (await echo(2)).choices[0].text == "abcf"
            answer = await echo(0, logprobs=1)
            (choice,) = answer.choices
            assert choice.text == "ab"
            assert choice.logprobs.tokens == ["a", "b"]
            assert choice.logprobs.token_logprobs == [None, -0.5]
            assert choice.logprobs.top_logprobs == [None, {"b": -0.5}]
            assert answer.usage.completion_tokens == 0
            choice = (await echo(1, logprobs=0)).choices[0]
            assert choice.logprobs.token_logprobs == [None, -0.5, -0.5]
            assert choice.logprobs.text_offset == [0, 1, 2]

    run(scenario)


def test_what_the_engine_is_asked_for(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            await client.completions.create(
                model="letters",
                prompt="c",
                max_tokens=5,
                seed=7,
                temperature=0.5,
                top_p=0.9,
                frequency_penalty=0.25,
                presence_penalty=-0.5,
                logit_bias={"5": 10},
                extra_body={"top_k": 4, "min_tokens": 2, "min_p": 0.125},
            )
            params = s.engine.submits[0].params
            assert (params.temperature, params.top_p, params.seed) == (0.5, 0.9, 7)
            assert params.frequency_penalty == 0.25
            assert params.presence_penalty == -0.5
            assert params.logit_bias == {5: 10.0}
            assert (params.top_k, params.min_tokens, params.min_p) == (4, 2, 0.125)

    run(scenario)


def test_a_chat_goes_through_the_template(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):
            answer = await client.chat.completions.create(
                model="letters",
                messages=[
                    {"role": "system", "content": "zzz"},
                    {"role": "user", "content": [{"type": "text", "text": " a "}]},
                    {"role": "assistant", "content": "b"},
                ],
                max_completion_tokens=4,
            )
            assert s.engine.submits[0].prompt.tolist() == [1, 2]
            assert answer.object == "chat.completion"
            assert answer.id.startswith("chatcmpl-")
            (choice,) = answer.choices
            assert (choice.message.role, choice.message.content) == (
                "assistant",
                "cflx",
            )
            assert choice.finish_reason == "length"
            assert answer.usage is not None and answer.usage.total_tokens == 6

    run(scenario)


AGENTS = """\
{%- for m in messages -%}
  {{ m.reasoning_content }}{{ m.content }}
  {%- for c in m.tool_calls -%}
    {{ c.function.name }}{{ c.function.arguments.x }}
  {%- endfor -%}
{%- endfor -%}
{%- for d in documents or [] -%}{{ d.text }}{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ 'z' if enable_thinking is false else 'y' }}
{%- endif -%}
"""


def test_a_template_sees_what_agents_send(letters_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "agents.jinja"
    path.write_text(AGENTS)
    function = {"name": "c", "arguments": '{"x": "d"}'}
    messages: Any = [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "b",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "e"},
    ]
    said: list[tuple[dict[str, Any], str]] = [
        ({}, "abcdey"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "abcdez"),
        ({"documents": [{"text": "f"}]}, "abcdefy"),
        ({"add_generation_prompt": False}, "abcde"),
        ({"continue_final_message": True}, "abcde"),
    ]

    async def scenario() -> None:
        async with talking(letters_dir, template=path) as (s, client):
            for body, text in said:
                await client.chat.completions.create(
                    model="letters", messages=messages, max_tokens=1, extra_body=body
                )
                ids = s.engine.submits[-1].prompt.tolist()
                assert "".join(LETTERS[i] for i in ids) == text
            bad = {"chat_template_kwargs": {"tools": 1}}
            error = await error_of(
                client.chat.completions.create(
                    model="letters", messages=messages, extra_body=bad
                )
            )
            assert (error.status_code, error.param) == (400, "chat_template_kwargs")

    run(scenario)


def test_a_chat_may_use_what_the_context_leaves(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (_, client):
            answer = await client.chat.completions.create(
                model="letters", messages=[{"role": "user", "content": "a"}]
            )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 999

    run(scenario)


def test_a_chat_streams_with_its_log_probabilities(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (_, client):
            stream = await client.chat.completions.create(
                model="letters",
                messages=[{"role": "user", "content": "c"}],
                max_tokens=4,
                logprobs=True,
                top_logprobs=2,
                stream=True,
            )
            text, words, roles = "", [], []
            async for chunk in stream:
                (choice,) = chunk.choices
                text += choice.delta.content or ""
                roles.append(choice.delta.role)
                assert choice.logprobs is not None
                words += choice.logprobs.content or []
            assert text == "cflx"
            assert roles[0] == "assistant" and set(roles[1:]) <= {None}
            assert [word.token for word in words] == ["c", "f", "l", "x"]
            assert words[0].bytes == [99]
            assert words[0].logprob == -0.5
            assert [(top.token, top.logprob) for top in words[0].top_logprobs] == [
                ("c", -0.5),
                ("d", -1.5),
            ]

    run(scenario)


def test_the_synchronous_client_streams_too(letters_dir: Path, template: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, _):

            def talk() -> tuple[str, str]:
                with openai.OpenAI(
                    api_key="any", base_url=f"http://{s.http}/v1"
                ) as client:
                    stream = client.completions.create(
                        model="letters", prompt="c", max_tokens=4, stream=True
                    )
                    whole = client.chat.completions.create(
                        model="letters",
                        messages=[{"role": "user", "content": "a"}],
                        max_tokens=4,
                    )
                    streamed = "".join(chunk.choices[0].text for chunk in stream)
                    return streamed, whole.choices[0].message.content or ""

            assert await asyncio.to_thread(talk) == ("cflx", "abdh")

    run(scenario)


def test_models_are_listed(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (_, client):
            assert [model.id async for model in client.models.list()] == ["letters"]
            assert (await client.models.retrieve("letters")).owned_by == "mell_jax"
            error = await error_of(client.models.retrieve("org/other"))
            assert error.status_code == 404
            assert "no model 'org/other' is served here" in error.message

    run(scenario)


def test_what_is_not_asked_for_is_what_fits(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            create = client.completions.create
            room = s.server.front_end.models.find("letters").info.max_model_len
            for prompt, options, count in (
                ([1], {"top_k": -1}, 16),
                ([1], {"min_tokens": 20}, 20),
                ([1] * (room - 3), {}, 3),
            ):
                answer = await create(
                    model="letters",
                    prompt=prompt,
                    extra_body={**options, "ignore_eos": True},
                )
                assert answer.usage is not None
                assert answer.usage.completion_tokens == count

    run(scenario)


def test_errors_are_those_that_clients_know(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            create = client.completions.create
            error = await error_of(create(model="gpt", prompt="c"))
            assert isinstance(error, openai.NotFoundError)
            assert error.code == "model_not_found"
            error = await error_of(create(model="letters", prompt="c", temperature=-1))
            assert isinstance(error, openai.BadRequestError)
            assert error.type == "invalid_request_error"
            assert error.param == "temperature"
            assert "must be a finite number from 0.0 to 100.0" in error.message
            error = await error_of(create(model="letters", prompt="c" * 2000))
            assert (error.status_code, error.param) == (400, "prompt")
            error = await error_of(create(model="letters", prompt=["a", [1]]))
            assert (error.status_code, error.param) == (400, "prompt")
            bad: Any = {"n": "two"}
            error = await error_of(create(model="letters", prompt="c", **bad))
            assert (error.status_code, error.param) == (400, "n")
            error = await error_of(
                client.chat.completions.create(
                    model="letters", messages=[{"role": "user", "content": "c"}]
                )
            )
            assert (error.status_code, error.param) == (400, "messages")
            assert "--chat_template=FILE" in error.message
            assert s.engine.submits == []

    run(scenario)


def test_a_bug_is_told_by_an_opaque_id(
    letters_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, client):
            s.engine.fail_with[3] = Finished(
                handle=Handle(1), reason=FinishReason.ERROR, message="secret path"
            )
            error = await error_of(
                client.completions.create(model="letters", prompt="c")
            )
            assert isinstance(error, openai.InternalServerError)
            assert "secret" not in error.message
            error_id = error.message.rpartition(" at ")[2][:12]
            assert error_id in caplog.text and "secret path" in caplog.text

    run(scenario)


def test_an_id_that_a_proxy_gives_to_many_calls_is_no_key(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True) as (s, client):
            named = client.with_options(default_headers={"x-request-id": "page-7"})
            calls = [
                asyncio.ensure_future(
                    named.completions.create(model="letters", prompt="c", max_tokens=1)
                )
                for _ in range(3)
            ]
            await s.until(lambda: len(s.engine.submits) == 3)
            s.engine.step()
            answers = [await call for call in calls]
            assert len({answer.id for answer in answers}) == 3
            assert {answer._request_id for answer in answers} == {"page-7"}

    run(scenario)


@pytest.mark.parametrize("given", ["a b", "\u00e9", "x" * 257, ""])
def test_an_id_that_cannot_be_repeated_is_as_good_as_none(
    letters_dir: Path, given: str
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, _), httpx2.AsyncClient() as client:
            answer = await client.post(
                f"http://{s.http}/v1/completions",
                json={"prompt": "c", "max_tokens": 1},
                headers=[(b"x-request-id", given.encode("utf-8"))],
            )
            assert answer.status_code == 200
            assert answer.json()["id"] == f"cmpl-{answer.headers['x-request-id']}"

    run(scenario)


def test_fields_that_nobody_knows_are_told(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir) as (s, _), httpx2.AsyncClient() as client:
            answer = await client.post(
                f"http://{s.http}/v1/completions",
                json={"prompt": "c", "max_tokens": 1, "max_token": 9, "a\nb": 1},
            )
            assert answer.status_code == 200
            assert answer.headers["x-mell-unknown-fields"] == "max_token"

    run(scenario)


def test_a_stream_that_waits_says_so_and_may_still_fail(letters_dir: Path) -> None:
    """Proxies close what says nothing for a minute; a queue may take longer."""

    async def scenario() -> None:
        async with (
            talking(letters_dir, is_manual=True, sse_comment_s=0.05) as (s, _),
            httpx2.AsyncClient() as client,
            client.stream(
                "POST",
                f"http://{s.http}/v1/completions",
                json={"prompt": "c", "max_tokens": 2, "stream": True},
            ) as answer,
        ):
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            for _ in range(2):
                assert await anext(lines) == ": waiting"
                assert await anext(lines) == ""
            handle = s.engine.submits[0].handle
            s.engine.fail_with[3] = Finished(
                handle=handle, reason=FinishReason.ERROR, message="it went wrong"
            )
            s.engine.step()
            rest = [line async for line in lines if line not in (": waiting", "")]
            (event,) = rest
            assert event.startswith('data: {"error":{"message":')
            assert '"type":"server_error"' in event

    run(scenario)


def test_a_refusal_before_the_first_word_keeps_its_status(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, sse_comment_s=5.0) as (_, client):
            error = await error_of(
                client.completions.create(
                    model="letters", prompt="c" * 9000, max_tokens=2, stream=True
                )
            )
            assert error.status_code == 400

    run(scenario)


def test_more_than_the_server_keeps_is_to_be_tried_again(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True, max_open=1) as (s, client):
            create = client.completions.create
            first = asyncio.ensure_future(
                create(model="letters", prompt="c", max_tokens=1)
            )
            await s.until(lambda: len(s.engine.submits) == 1)
            error = await error_of(create(model="letters", prompt="c"))
            assert isinstance(error, openai.RateLimitError)
            assert error.response.headers["retry-after"] == "1"
            s.engine.step()
            assert (await first).choices[0].text == "c"

    run(scenario)


def test_a_stream_tells_that_the_engine_died(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True) as (s, client):
            stream_of = asyncio.ensure_future(
                client.completions.create(model="letters", prompt="c", stream=True)
            )
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            stream = await stream_of
            assert (await anext(stream)).choices[0].text == "c"
            s.engine.die("the device is lost")
            with pytest.raises(openai.APIError, match="the engine failed; 1 tokens"):
                await anext(stream)
            error = await error_of(
                client.completions.create(model="letters", prompt="c")
            )
            assert error.status_code == 503

    run(scenario)


def test_a_client_that_leaves_frees_what_it_has(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True) as (s, client):
            stream_of = asyncio.ensure_future(
                client.completions.create(
                    model="letters", prompt=["a", "c"], max_tokens=900, stream=True
                )
            )
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            stream = await stream_of
            await anext(stream)
            await stream.close()
            await s.until(lambda: len(s.engine.aborts) == 2)
            s.engine.step()
            await s.idle()

    run(scenario)


def test_a_client_that_leaves_before_a_whole_answer_frees_what_it_has(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True) as (s, client):
            call = asyncio.ensure_future(
                client.completions.create(model="letters", prompt="c", max_tokens=900)
            )
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            call.cancel()
            await s.until(lambda: len(s.engine.aborts) == 1)
            s.engine.step()
            await s.idle()

    run(scenario)


def test_a_draining_server_takes_nothing_new(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, is_manual=True) as (s, client):
            create = client.completions.create
            open_call = asyncio.ensure_future(
                create(model="letters", prompt="c", max_tokens=1)
            )
            await s.until(lambda: len(s.engine.submits) == 1)
            drained = asyncio.ensure_future(s.server.drain(hurry=asyncio.Event()))
            await asyncio.sleep(0)  # let it begin
            error = await error_of(create(model="letters", prompt="c"))
            assert error.status_code == 503
            assert error.response.headers["retry-after"] == "1"
            s.engine.step()
            assert (await open_call).choices[0].text == "c"
            await drained

    run(scenario)


def test_without_a_tokenizer_there_is_no_text() -> None:
    async def scenario() -> None:
        async with talking(None) as (_, client):
            error = await error_of(
                client.completions.create(model="letters", prompt="c")
            )
            assert error.status_code == 400
            assert "text needs a tokenizer" in error.message

    run(scenario)


def test_a_template_may_refuse_a_conversation(
    letters_dir: Path, template: Path
) -> None:
    async def scenario() -> None:
        async with talking(letters_dir, template=template) as (s, client):
            error = await error_of(
                client.chat.completions.create(
                    model="letters",
                    messages=[{"role": "assistant", "content": "c"}],
                )
            )
            assert (error.status_code, error.param) == (400, "messages")
            assert "the first message must be of the user" in error.message
            assert s.engine.submits == []
            await s.idle()

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions"])
def test_what_there_is_not_to_get_is_not_found(letters_dir: Path, path: str) -> None:
    async def scenario() -> None:
        async with (
            talking(letters_dir) as (s, _),
            httpx2.AsyncClient() as client,
        ):
            for method in ("GET", "PUT"):
                answer = await client.request(method, f"http://{s.http}{path}")
                assert answer.status_code == 404
                error = answer.json()["error"]
                assert error["message"].startswith(f"there is no {method} /v1/")
                assert error["code"] is None
            answer = await client.post(f"http://{s.http}/v1/completions", content=b"{")
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] is None

    run(scenario)
