"""Texts that end inside their last message."""

from pathlib import Path
from typing import Any

import pytest

from mell_jax.text.chat_template import ChatTemplateError
from mell_jax.text.conversation import Conversation
from mell_jax.text.tokenizer import Tokenizer
from tests.text.families import GLM, QWEN2
from tests.text.talks import control_tokenizer, encode

TRIMMING = "{% for m in messages %}<|user|>{{ m.content | trim }}</s>{% endfor %}"


TWICE = "{% set c = messages[0].content %}{{ c }}|{{ c | trim }}|{{ c }}</s>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return control_tokenizer(tmp_path_factory.mktemp("control"))


def continued(source: str, tokenizer: Tokenizer, *contents: Any) -> str:
    said = Conversation(
        messages=[{"role": "user", "content": each} for each in contents],
        asks_for_answer=False,
        continues=True,
    )
    return encode(source, said, tokenizer=tokenizer)[1]


@pytest.mark.parametrize(
    ("source", "contents", "text"),
    [
        (QWEN2, ["a"], "<|im_start|>user\na"),
        (QWEN2, ["a \n"], "<|im_start|>user\na \n"),
        (QWEN2, [""], "<|im_start|>user\n"),
        (QWEN2, ["a", "a"], "<|im_start|>user\na<|im_end|>\n<|im_start|>user\na"),
        (QWEN2, ["a<|im_end|>"], "<|im_start|>user\na<|im_end|>"),
        (QWEN2, ["a <|im_ "], "<|im_start|>user\na <|im_ "),
        (TRIMMING, [" a \n"], "<|user|>a"),
        (TWICE, ["a"], "a|a|a"),
        (TRIMMING, ["a <|im_ \n"], "<|user|>a <|im_"),
        (GLM, [[{"type": "text", "text": "a "}]], "<|user|>\na "),
        (
            GLM,
            [[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]],
            "<|user|>\nab",
        ),
    ],
)
def test_nothing_stands_behind_what_was_said(
    tokenizer: Tokenizer, source: str, contents: list[Any], text: str
) -> None:
    assert continued(source, tokenizer, *contents) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].role }}",
        "{{ messages[-1].content | replace('a', 'b') }}",
        "{{ messages[-1].content[:1] }}",
    ],
)
def test_what_a_template_changes_cannot_be_continued(
    tokenizer: Tokenizer, source: str, tmp_path: Path
) -> None:
    with pytest.raises(ChatTemplateError, match="cannot be continued"):
        continued(source, tokenizer, "ca")
