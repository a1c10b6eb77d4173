"""Every field that vLLM publishes is honoured, harmless or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mell_jax.engine.frames import Finished, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.grammar import Grammar
from mell_jax.serving.openai.fields import CHAT, COMPLETIONS, DETOKENIZE, TOKENIZE
from mell_jax.serving.openai.wire import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from tests.serving.harness import run, serving


def words(text: str) -> list[str]:
    return text.split()


SHARED = words("""
frequency_penalty logit_bias logprobs max_tokens model n presence_penalty seed stop
stream stream_options temperature top_p user use_beam_search top_k min_p
repetition_penalty watermarking length_penalty stop_token_ids
include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs
logprob_token_ids allowed_token_ids bad_words add_special_tokens response_format
structured_outputs priority request_id session_id return_tokens_as_token_ids
return_token_ids routed_experts_prompt_start return_token_offsets return_mm_kwargs
cache_salt kv_transfer_params ec_transfer_params vllm_xargs repetition_detection
thinking_token_budget stream_interval logits_processors guided_json guided_regex
guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern
structural_tag
""")
VLLM = {
    "/v1/completions": [
        *SHARED,
        *words("prompt echo suffix best_of prompt_embeds"),
    ],
    "/v1/chat/completions": [
        *SHARED,
        *words("""
        messages top_logprobs max_completion_tokens tools tool_choice reasoning_effort
        include_reasoning parallel_tool_calls echo add_generation_prompt
        continue_final_message documents chat_template chat_template_kwargs
        media_io_kwargs mm_processor_kwargs return_prompt_text best_of
        """),
    ],
}
OPENAI = {
    "/v1/completions": words("best_of echo suffix user stream_options"),
    "/v1/chat/completions": words("""
        audio function_call functions metadata modalities parallel_tool_calls
        prediction prompt_cache_key prompt_cache_retention reasoning_effort
        response_format safety_identifier service_tier store tool_choice tools user
        verbosity web_search_options
    """),
}
TABLES = {"/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT}
READ = {
    CompletionRequest: COMPLETIONS,
    ChatRequest: CHAT,
    TokenizeRequest: TOKENIZE,
    DetokenizeRequest: DETOKENIZE,
}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "c", "max_tokens": 2},
    "/v1/chat/completions": {"prompt_token_ids": [3], "max_tokens": 2},
}
REFUSED = [(path, name) for path, table in TABLES.items() for name in table.refused]


@pytest.mark.parametrize("path", TABLES)
@pytest.mark.parametrize("published", [VLLM, OPENAI], ids=["vllm", "openai"])
def test_every_published_field_is_in_one_list(
    path: str, published: Mapping[str, list[str]]
) -> None:
    table = TABLES[path]
    for name in published[path]:
        lists = (table.honoured, table.harmless, table.refused)
        assert sum(name in each for each in lists) == 1, name


@pytest.mark.parametrize("kind", READ)
def test_what_is_honoured_is_read_and_nothing_else(kind: Any) -> None:
    assert kind.known is READ[kind]
    assert set(kind.__struct_fields__) == READ[kind].honoured


async def _post(s: Any, path: str, **fields: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{s.http}") as client:
        return await client.post(path, json={**GOOD[path], **fields})


def test_a_refused_field_is_400_with_its_name_and_its_way_out(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            for path, name in REFUSED:
                refusal = TABLES[path].refused[name]
                answer = await _post(s, path, **{name: {"some": "wish"}})
                assert answer.status_code == 400, name
                error = answer.json()["error"]
                assert error["param"] == name
                assert refusal.way_out in error["message"]
            assert s.engine.submits == []

    run(scenario)


def test_a_refused_field_that_asks_for_nothing_is_passed_over(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            for path, table in TABLES.items():
                count = max(len(each.neutral) for each in table.refused.values())
                for number in range(count):
                    fields = {
                        name: each.neutral[number]
                        if number < len(each.neutral)
                        else None
                        for name, each in table.refused.items()
                    }
                    harmless = dict.fromkeys(table.harmless, "anything")
                    answer = await _post(s, path, **fields, **harmless)
                    assert answer.status_code == 200, answer.text
                    assert "x-mell-unknown-fields" not in answer.headers

    run(scenario)


PARAMS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "logit_bias": ({"3": -1}, {"logit_bias": {3: -1.0}}),
    "max_tokens": (7, {"max_tokens": 7}),
    "n": (2, {"n": 2}),
    "presence_penalty": (0.5, {"presence_penalty": 0.5}),
    "seed": (9, {"seed": 9}),
    "stop": ("x", {"stop": ("x",)}),
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.5, {"top_p": 0.5}),
    "allowed_token_ids": ([3, 6], {"allowed_token_ids": (3, 6)}),
    "ignore_eos": (True, {"ignore_eos": True}),
    "include_stop_str_in_output": (True, {"include_stop_str_in_output": True}),
    "min_p": (0.5, {"min_p": 0.5}),
    "min_tokens": (1, {"min_tokens": 1}),
    "logprobs_mode": ("processed", {"logprobs_mode": "processed"}),
    "prompt_logprobs": (2, {"prompt_logprobs": 2}),
    "repetition_penalty": (1.5, {"repetition_penalty": 1.5}),
    "skip_special_tokens": (False, {"skip_special_tokens": False}),
    "stop_token_ids": ([5], {"stop_token_ids": (5,)}),
    "top_k": (4, {"top_k": 4}),
    "response_format": ({"type": "json_object"}, {"grammar": Grammar.json_object()}),
    "structured_outputs": (
        {"regex": "a+"},
        {"grammar": Grammar.from_regex("a+")},
    ),
    "structural_tag": (
        {"format": {"type": "regex", "pattern": "b"}},
        {"grammar": Grammar.from_regex("b")},
    ),
    "guided_json": (
        {"type": "integer"},
        {"grammar": Grammar.from_json_schema({"type": "integer"})},
    ),
    "guided_regex": ("c", {"grammar": Grammar.from_regex("c")}),
    "guided_choice": (["a", "b"], {"grammar": Grammar.from_choice(["a", "b"])}),
    "guided_grammar": ('start: "a"', {"grammar": Grammar.from_lark('start: "a"')}),
}
"""What a field becomes, where it is a sampling parameter."""
ROUTES: dict[str, dict[str, tuple[Any, Mapping[str, Any]]]] = {
    "/v1/completions": {
        **PARAMS,
        "logprobs": (3, {"logprobs": 3}),
        "best_of": (3, {"n": 3, "logprobs": 0}),
    },
    "/v1/chat/completions": {
        **PARAMS,
        "logprobs": (True, {"logprobs": 0}),
        "max_completion_tokens": (5, {"max_tokens": 5}),
    },
}
ELSEWHERE = {  # the other tests of this folder see what these do
    *("model", "stream", "stream_options", "request_id", "return_token_ids"),
    *("prompt", "echo", "messages", "prompt_token_ids", "top_logprobs"),
    *("tools", "tool_choice", "parallel_tool_calls", "documents"),
    *("chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
}


@pytest.mark.parametrize("path", TABLES)
def test_a_honoured_field_reaches_the_engine(path: str, letters_dir: Path) -> None:
    assert ROUTES[path].keys() == TABLES[path].honoured - ELSEWHERE

    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await _post(s, path)
            assert answer.status_code == 200
            plain = s.engine.submits[-1].params
            for name, (value, expected) in ROUTES[path].items():
                for each in expected:
                    assert getattr(plain, each) != expected[each], name
                del s.engine.submits[:]
                answer = await _post(s, path, **{name: value})
                assert answer.status_code == 200, answer.text
                reached = s.engine.submits[0].params
                assert isinstance(reached, SamplingParams)
                for each, wanted in expected.items():
                    assert getattr(reached, each) == wanted, name

    run(scenario)


def test_unknown_fields_are_told_by_name_and_never_by_value(
    letters_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with caplog.at_level("INFO", logger="mell_jax.events"):
            async with serving(directory=letters_dir, http_port=0) as s:
                answer = await _post(
                    s,
                    "/v1/completions",
                    **{"zebra": "a secret", "max_token": 1, "with space": 2},
                )
        assert answer.status_code == 200
        assert answer.headers["x-mell-unknown-fields"] == "max_token, zebra"

    run(scenario)
    (record,) = (
        each
        for each in caplog.records
        if getattr(each, "event", "") == "fields_unknown"
    )
    fields = record.__dict__["fields"]
    assert fields == {"names": "max_token, zebra", "count": 3}
    assert "secret" not in json.dumps([record.getMessage(), fields])


@pytest.mark.parametrize("path", TABLES)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_grammar_that_does_not_compile_is_told_by_the_clients_field(
    path: str, is_streamed: bool, letters_dir: Path
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            s.engine.fail_with[3] = Finished(
                handle=Handle(1),
                reason=FinishReason.ERROR,
                message="grammar cannot be used: it is too large",
                field="grammar",
            )
            nothing = {"response_format": {"type": "text"}, "structured_outputs": {}}
            answer = await _post(
                s, path, guided_regex="a", stream=is_streamed, **nothing
            )
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["param"] == "guided_regex"
            message = "guided_regex cannot be used: it is too large"
            assert error["message"] == message

    run(scenario)
