"""Conversations as agents have them, made by hypothesis, and who renders them."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mell_jax.text.chat_prompt import ChatPrompt, EncodedChat
from mell_jax.text.chat_template import ChatTemplate
from mell_jax.text.conversation import Conversation
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.families import CONTROL

MAX_TOKENS = 5000
SPECIAL = {"bos_token": "<|begin|>", "eos_token": "</s>"}


def control_tokenizer(directory: Path) -> Tokenizer:
    """A token per byte, and those of all families, which come first."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = tokenizers.Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    )
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(list(CONTROL))
    rust.save(str(directory / "tokenizer.json"))
    return load_tokenizer(directory)


@functools.cache
def chat_of(source: str, *, tokenizer: Tokenizer) -> ChatPrompt:
    template = ChatTemplate(source, special=SPECIAL)
    return ChatPrompt(tokenizer, template=template)


def encode(
    source: str, said: Conversation, *, tokenizer: Tokenizer
) -> tuple[EncodedChat, str]:
    """A conversation as a prompt, and the whole text of that prompt."""
    encoded = chat_of(source, tokenizer=tokenizer).encode(said, max_tokens=MAX_TOKENS)
    return encoded, tokenizer.decode(encoded.ids, skip_special_tokens=False)


def texts(*pieces: str) -> st.SearchStrategy[str]:
    """Texts of letters that templates look for, and of pieces."""
    letter = st.sampled_from([*"ab \n\"'\\{}<|>[]/", "é", "漢", "&", *pieces])
    return st.lists(letter, max_size=8).map("".join)


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | text
    return st.recursive(
        scalars | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2)
        ),
        max_leaves=4,
    )


def schemas(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", ["string", "null"]])},
        optional={"description": text, "enum": st.lists(text, max_size=2)},
    )
    array = st.fixed_dictionaries({"type": st.just("array"), "items": leaf})
    return st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.dictionaries(text, leaf | array, max_size=3),
        }
    )


def tools(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[Any] | None]:
    function = st.fixed_dictionaries(
        {"name": st.sampled_from(["f", "get_it"]), "description": text},
        optional={"parameters": schemas(text), "strict": st.booleans()},
    )
    tool = st.fixed_dictionaries({"type": st.just("function"), "function": function})
    return st.none() | st.lists(tool, min_size=1, max_size=2)


@st.composite
def messages(draw: st.DrawFn, text: st.SearchStrategy[str]) -> list[dict[str, Any]]:
    """Turns in the order in which agents have them, the last one the assistant's."""
    said: list[dict[str, Any]] = []
    if draw(st.booleans()):
        said.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        said.append({"role": "user", "content": draw(text)})
        for _ in range(draw(st.integers(0, 2))):
            ids = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=2))
            calls = [
                {
                    "id": f"call0000{each}",
                    "type": "function",
                    "function": {
                        "name": draw(text | st.just("f")),
                        "arguments": json.dumps(
                            draw(st.dictionaries(text, values(text), max_size=3))
                        ),
                    },
                }
                for each in ids
            ]
            call: dict[str, Any] = {"role": "assistant", "tool_calls": calls}
            content = draw(st.none() | text)
            said.append(call | ({} if content is None else {"content": content}))
            said += [
                {
                    "role": "tool",
                    "tool_call_id": f"call0000{each}",
                    "content": draw(text),
                }
                for each in ids
            ]
        answer = {"role": "assistant", "content": draw(text)}
        thought = draw(st.none() | text)
        said.append(answer | ({} if thought is None else {"reasoning": thought}))
    return said


@st.composite
def conversations(draw: st.DrawFn, text: st.SearchStrategy[str]) -> Conversation:
    said = draw(messages(text))
    mode = draw(st.sampled_from(["asks", "ends", "continues"]))
    if mode == "asks":
        said = said[:-1]
    document = st.fixed_dictionaries({"title": text, "text": text})
    kwargs = st.fixed_dictionaries(
        {}, optional={"enable_thinking": st.booleans(), "date": text}
    )
    return Conversation(
        messages=said,
        tools=draw(tools(text)),
        documents=draw(st.none() | st.lists(document, min_size=1, max_size=2)),
        kwargs=draw(kwargs),
        asks_for_answer=mode == "asks",
        continues=mode == "continues",
    )


def parsed(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as users of transformers write it: arguments are objects."""
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.loads(call["function"]["arguments"]),
            },
        }
        for call in message.get("tool_calls", [])
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}
