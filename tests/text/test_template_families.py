"""Conversations of agents are rendered as transformers renders them, by any family."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers.models import BPE

from mell_jax.text.chat_template import ChatTemplateError
from mell_jax.text.conversation import Conversation
from mell_jax.text.tokenizer import Tokenizer
from tests.text.families import FAMILIES, GLM
from tests.text.talks import (
    SPECIAL,
    control_tokenizer,
    conversations,
    encode,
    parsed,
    texts,
)

GOLDENS: dict[str, str] = json.loads(
    (Path(__file__).parent / "family_goldens.json").read_text()
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Tells the "weather" <now> & later',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "größe"},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city":"Köln","days":[1, 2]}'},
}
AGENT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain?\n"},
    {"role": "assistant", "content": None, "reasoning": "ask", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call00001", "content": '{"mm": 0}'},
    {"role": "assistant", "content": "No rain."},
    {"role": "user", "content": "Sure?"},
]
THINKING = {"enable_thinking": False}
CASES = [f"{family} {case}" for family in FAMILIES for case in ("asks", "continues")]


def agent(case: str) -> Conversation:
    if case == "continues":
        last = {"role": "assistant", "content": "Yes, "}
        return Conversation(
            messages=[*AGENT, last], tools=[TOOL], asks_for_answer=False, continues=True
        )
    return Conversation(messages=AGENT, tools=[TOOL], kwargs=THINKING)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return control_tokenizer(tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    """`apply_chat_template` of a tokenizer that says what ours says."""
    transformers = pytest.importorskip("transformers")
    rust = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(BPE()), **SPECIAL
    )

    def render(source: str, said: Conversation) -> str:
        text: str = rust.apply_chat_template(
            [parsed(message) for message in said.messages],
            tools=said.tools,
            documents=said.documents,
            chat_template=source,
            add_generation_prompt=said.asks_for_answer,
            continue_final_message=said.continues,
            tokenize=False,
            **said.kwargs,
        )
        return text

    return render


@pytest.mark.parametrize("case", CASES)
def test_an_agents_conversation_has_the_text_that_it_had(
    tokenizer: Tokenizer, case: str
) -> None:
    family, _, kind = case.partition(" ")
    encoded, text = encode(FAMILIES[family], agent(kind), tokenizer=tokenizer)
    assert text == GOLDENS[case]
    assert encoded.text_end == text[-200:]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"deepseek"}))
def test_transformers_writes_the_same(
    tokenizer: Tokenizer, theirs: Any, family: str
) -> None:
    """DeepSeek's own templates lose calls in transformers 5, which drops null."""
    source = FAMILIES[family]
    for kind in ("asks", "continues"):
        assert GOLDENS[f"{family} {kind}"] == theirs(source, agent(kind))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None)
@given(said=conversations(texts("</think>", "<tool_response>", "<think>", "x" * 9)))
def test_any_conversation_is_as_in_transformers(
    tokenizer: Tokenizer, theirs: Any, family: str, said: Conversation
) -> None:
    source = FAMILIES[family]
    if family == "deepseek":
        said = without_calls(said)
    try:
        want = theirs(source, said)
    except Exception:  # whatever a template raises
        with pytest.raises(ChatTemplateError):
            encode(source, said, tokenizer=tokenizer)
        return
    assert encode(source, said, tokenizer=tokenizer)[1] == want


def without_calls(said: Conversation) -> Conversation:
    messages = [
        message
        for message in said.messages
        if "tool_calls" not in message and message["role"] != "tool"
    ]
    return dataclasses.replace(said, messages=messages)


def test_parts_of_text_are_parts_where_a_template_reads_them_else_lines(
    tokenizer: Tokenizer, theirs: Any
) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    roles = ("system", "user", "assistant")
    said = Conversation(messages=[{"role": role, "content": parts} for role in roles])
    text = encode(GLM, said, tokenizer=tokenizer)[1]
    assert text.count("onetwo") == 3
    assert text == theirs(GLM, said)
    for family in ("qwen2", "llama3", "deepseek"):
        text = encode(FAMILIES[family], said, tokenizer=tokenizer)[1]
        assert text.count("one\ntwo") == 3, family
