"""What answers tell beyond OpenAI's where they are asked to; "c" goes on "flxq..."."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.serving.openai.best import keep_best
from mell_jax.serving.openai.samples import Piece
from tests.serving.harness import Harness, run, serving

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": [3], "max_tokens": 5},
    CHAT: {"prompt_token_ids": [3], "max_tokens": 5},
}
ANSWER = [3, 6, 12, 24, 17]  # each is the sum of all before it, modulo 31


async def post(s: Harness, path: str, **fields: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{s.http}") as client:
        return await client.post(path, json={**BODIES[path], **fields})


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("path", BODIES)
def test_ids_of_prompt_and_answer_are_told(path: str, letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            plain = (await post(s, path)).json()
            assert "token_ids" not in plain["choices"][0]
            assert "prompt_token_ids" not in {**plain, **plain["choices"][0]}
            answer = (await post(s, path, return_token_ids=True, n=2)).json()
            assert [each["token_ids"] for each in answer["choices"]] == [ANSWER] * 2
            places = [answer] if path == CHAT else answer["choices"]
            assert [each["prompt_token_ids"] for each in places] == [[3]] * len(places)

    run(scenario)


@pytest.mark.parametrize("path", BODIES)
def test_streams_tell_ids_as_they_come(path: str, letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await post(s, path, return_token_ids=True, stream=True)
            events = events_of(answer)
            choices = [event["choices"][0] for event in events]
            told = [token for each in choices for token in each["token_ids"]]
            assert told == ANSWER
            places = events if path == CHAT else choices
            assert places[0]["prompt_token_ids"] == [3]
            assert all("prompt_token_ids" not in each for each in places[1:])

    run(scenario)


@pytest.mark.parametrize("path", BODIES)
def test_log_probabilities_of_the_prompt(path: str, letters_dir: Path) -> None:
    name = "prompt" if path == COMPLETIONS else "prompt_token_ids"

    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await post(
                s, path, **{name: [1, 2, 5], "prompt_logprobs": 2, "n": 2}
            )
            told = answer.json()
            places = [told] if path == CHAT else told["choices"]
            for place in places:
                first, *rows = place["prompt_logprobs"]
                assert first is None
                assert rows == [
                    {
                        "2": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
                        "3": {"logprob": -1.5, "rank": 2, "decoded_token": "c"},
                    },
                    {
                        "5": {"logprob": -0.5, "rank": 1, "decoded_token": "e"},
                        "6": {"logprob": -1.5, "rank": 2, "decoded_token": "f"},
                    },
                ]
            none = (await post(s, path, prompt_logprobs=0, **{name: [1, 2]})).json()
            place = none if path == CHAT else none["choices"][0]
            assert place["prompt_logprobs"] == [
                None,
                {"2": {"logprob": -0.5, "rank": None, "decoded_token": "b"}},
            ]
            refused = await post(s, path, prompt_logprobs=1, stream=True)
            assert refused.json()["error"]["param"] == "prompt_logprobs"

    run(scenario)


def test_echo_and_prompt_logprobs_agree_or_are_refused(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            both: dict[str, Any] = {"echo": True, "logprobs": 1}
            answer = await post(s, COMPLETIONS, prompt_logprobs=1, **both)
            assert answer.json()["choices"][0]["prompt_logprobs"] == [None]
            answer = await post(s, COMPLETIONS, prompt_logprobs=2, **both)
            assert answer.json()["error"]["param"] == "prompt_logprobs"

    run(scenario)


def test_chat_takes_ids_in_place_of_messages(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = (await post(s, CHAT, messages=[])).json()
            assert answer["choices"][0]["message"]["content"] == "cflxq"
            assert s.engine.submits[-1].prompt.tolist() == [3]
            message = {"role": "user", "content": "c"}
            both = await post(s, CHAT, messages=[message])
            assert both.json()["error"]["param"] == "prompt_token_ids"
            for bad in ([], [31], [-1]):
                refused = await post(s, CHAT, prompt_token_ids=bad)
                assert refused.status_code == 400, bad
            neither = await post(s, CHAT, prompt_token_ids=None)
            assert neither.json()["error"]["param"] == "messages"

    run(scenario)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_answers_have_the_fingerprint_of_what_made_them(
    path: str, is_streamed: bool, letters_dir: Path
) -> None:
    async def scenario() -> None:
        async with serving(
            directory=letters_dir, http_port=0, fingerprint="mell-1-abc"
        ) as s:
            answer = await post(s, path, stream=is_streamed)
            objects = events_of(answer) if is_streamed else [answer.json()]
            assert objects
            told = [each["system_fingerprint"] for each in objects]
            assert told == ["mell-1-abc"] * len(objects)

    run(scenario)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_answers_tell_which_weights_have_made_them(
    path: str, is_streamed: bool, letters_dir: Path
) -> None:
    async def scenario() -> None:
        async with serving(
            directory=letters_dir, http_port=0, fingerprint="mell-1-abc", is_manual=True
        ) as s:
            s.engine.version = "0"
            options = {"stream_options": {"include_usage": True}} if is_streamed else {}
            asking = asyncio.create_task(
                post(s, path, stream=is_streamed, return_token_ids=True, **options)
            )
            await s.until(lambda: s.engine.submits != [])
            for version in ("0", "0", "step-1", "step-1", "step-1"):
                s.engine.version = version
                await asyncio.to_thread(s.engine.step)
            answer = await asking
            first = {"version": "0", "first": 0, "end": 2}
            rest = {"version": "step-1", "first": 2, "end": 5}
            if not is_streamed:
                told = answer.json()
                assert told["weight_version"] == "step-1"
                assert told["system_fingerprint"] == "mell-1-abc-step-1"
                assert told["choices"][0]["weight_versions"] == [first, rest]
                return
            objects = events_of(answer)
            assert objects[-1]["usage"]["completion_tokens"] == 5
            assert objects[-1]["weight_version"] == "step-1"
            ranges = [
                each
                for told in objects
                for choice in told["choices"]
                for each in choice.get("weight_versions", [])
            ]
            assert ranges[0]["first"] == 0 and ranges[-1]["end"] == 5
            versions = [each["version"] for each in ranges]
            assert sorted(versions) == versions and set(versions) == {"0", "step-1"}
            for each, after in pairwise(ranges):
                assert each["end"] == after["first"]
            for told in objects:
                suffix = "-step-1" if told["weight_version"] == "step-1" else ""
                assert told["system_fingerprint"] == f"mell-1-abc{suffix}"

    run(scenario)


def test_an_answer_that_is_hidden_has_no_weights(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            s.engine.version = "step-1"
            wish = {"echo": True, "max_tokens": 0, "return_token_ids": True}
            told = (await post(s, COMPLETIONS, **wish)).json()
            assert told["choices"][0]["weight_versions"] == []
            assert "weight_version" not in told

    run(scenario)


def test_requests_can_be_ended_by_the_ids_that_they_have(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0, is_manual=True) as s:
            wish = {"prompt": [[3], [1]], "request_id": "mine"}
            asking = asyncio.create_task(post(s, COMPLETIONS, **wish))
            await s.until(lambda: len(s.engine.submits) == 2)
            again = await post(s, CHAT, request_id="mine")
            assert again.status_code == 409
            await s.stub.Abort(pb.AbortRequest(request_ids=["mine-1", "mine-2"]))
            await s.until(lambda: s.engine.aborts != [])
            for _ in range(5):
                await asyncio.to_thread(s.engine.step)
            choices = (await asking).json()["choices"]
            assert [each["finish_reason"] for each in choices] == ["length", "abort"]
            asking = asyncio.create_task(post(s, CHAT, request_id="mine"))
            await s.until(lambda: len(s.engine.submits) == 3)
            await s.stub.Abort(pb.AbortRequest(request_ids=["mine"]))
            await s.until(lambda: len(s.engine.aborts) == 2)
            await asyncio.to_thread(s.engine.step)
            assert (await asking).json()["choices"][0]["finish_reason"] == "abort"

    run(scenario)


@pytest.mark.parametrize("path", BODIES)
def test_a_request_may_name_its_answer(path: str, letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await post(s, path, request_id="mine-1")
            assert answer.json()["id"].endswith("cmpl-mine-1")
            assert answer.headers["x-request-id"] == "mine-1"

    run(scenario)


@pytest.mark.parametrize("path", BODIES)
def test_every_event_has_the_usage_where_it_is_asked_for(
    path: str, letters_dir: Path
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            options = {"continuous_usage_stats": True}
            answer = await post(s, path, stream=True, stream_options=options)
            counts = [each["usage"]["completion_tokens"] for each in events_of(answer)]
            assert counts == sorted(counts) and counts[-1] == 5

    run(scenario)


def test_the_best_of_several_is_shown_and_all_are_counted(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = (await post(s, COMPLETIONS, best_of=3, prompt=["a", "c"])).json()
            texts = [each["text"] for each in answer["choices"]]
            assert texts == ["abdhp", "cflxq"]
            assert [each["index"] for each in answer["choices"]] == [0, 1]
            assert [each["logprobs"] for each in answer["choices"]] == [None, None]
            assert answer["usage"]["completion_tokens"] == 2 * 3 * 5
            assert len(s.engine.submits) == 6
            equal = await post(s, COMPLETIONS, best_of=1, stream=True)
            assert equal.status_code == 200
            for bad in ({"stream": True}, {"n": 4}):
                refused = await post(s, COMPLETIONS, best_of=3, **bad)
                assert refused.json()["error"]["param"] == "best_of"

    run(scenario)


def _piece(index: int, *, logprob: float, num_tokens: int) -> Piece:
    return Piece(
        index=index,
        text=str(index),
        words=None,
        finish_reason="stop",
        is_first=True,
        offsets=(),
        logprob=logprob,
        num_tokens=num_tokens,
    )


def test_likelihood_is_per_token() -> None:
    pieces = [
        _piece(0, logprob=-4.0, num_tokens=2),
        _piece(1, logprob=-5.0, num_tokens=5),  # the best
        _piece(2, logprob=0.0, num_tokens=0),  # says nothing
        _piece(3, logprob=-1.0, num_tokens=2),
        _piece(4, logprob=-3.0, num_tokens=1),
        _piece(5, logprob=-3.0, num_tokens=2),
    ]
    kept = keep_best(pieces, made=3, shown=2)
    assert [(each.index, each.text) for each in kept] == [
        (0, "1"),
        (1, "0"),
        (2, "3"),
        (3, "5"),
    ]


@given(
    scores=st.lists(st.floats(-9, -0.1), min_size=4, max_size=4),
    shown=st.integers(1, 4),
)
def test_those_left_out_are_no_likelier(scores: list[float], shown: int) -> None:
    pieces = [_piece(i, logprob=each, num_tokens=1) for i, each in enumerate(scores)]
    kept = keep_best(pieces, made=4, shown=shown)
    assert len(kept) == shown
    left = {each.text for each in pieces} - {each.text for each in kept}
    worst = min(each.logprob for each in kept)
    assert all(scores[int(text)] <= worst for text in left)
