"""Bodies as typed values; what is wrong with them is told in our words."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest, parse

WORDS = ["prompt", "messages", "logit_bias", "stream_options", "n", "content", "role"]
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(value=values, is_chat=st.booleans())
def test_the_field_at_fault_is_never_a_word_of_the_client(
    value: object, is_chat: bool
) -> None:
    kind: Any = ChatRequest if is_chat else CompletionRequest
    try:
        parse(json.dumps(value).encode(), kind)
    except InvalidRequestError as error:
        assert error.field in {"body", *kind.__struct_fields__, *kind.known.refused}
    except ValueError as error:  # NaN is no JSON
        assert "not usable JSON" in str(error)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"prompt": "a", "logit_bias": {"a`b": 1}}', "logit_bias"),
        (b'{"prompt": "a", "logit_bias": {"1": "`$.x`"}}', "logit_bias"),
        (b'{"prompt": "a", "` - at `$.x`": 1, "n": "` - at `$.x`"}', "n"),
        (b'{"prompt": {"a": 1}}', "prompt"),
        (b"[]", "body"),
    ],
)
def test_a_body_that_looks_like_a_message_of_ours_is_none(
    body: bytes, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(body, CompletionRequest)
    assert caught.value.field == field


ROUTES: dict[Any, dict[str, Any]] = {
    CompletionRequest: {"prompt": "a"},
    ChatRequest: {"messages": [{"role": "user", "content": "a"}]},
}
REFUSED = [(kind, name) for kind in ROUTES for name in kind.known.refused]


@pytest.mark.parametrize(("kind", "name"), REFUSED)
def test_what_is_not_here_is_refused_by_name_unless_nothing_is_asked(
    kind: Any, name: str
) -> None:
    def read(value: object) -> None:
        parse(json.dumps({**ROUTES[kind], name: value}).encode(), kind)

    for value in (None, *kind.known.refused[name].neutral):
        read(value)
    with pytest.raises(InvalidRequestError, match=f"{name} is not supported"):
        read({"something": "else"})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (CompletionRequest, "add_special_tokens", False),
        (CompletionRequest, "truncate_prompt_tokens", 4),
        (CompletionRequest, "max_completion_tokens", 4),
        (ChatRequest, "add_special_tokens", True),
        (ChatRequest, "use_beam_search", True),
        (ChatRequest, "length_penalty", 0.5),
        (ChatRequest, "best_of", 2),
        (ChatRequest, "best_of", True),
        (ChatRequest, "reasoning_effort", "low"),
        (ChatRequest, "echo", True),
    ],
)
def test_fields_that_users_were_answered_without(
    kind: Any, name: str, value: object
) -> None:
    body = json.dumps({**ROUTES[kind], name: value}).encode()
    with pytest.raises(InvalidRequestError, match=f"{name} is not supported") as caught:
        parse(body, kind)
    assert caught.value.field == name
    assert kind.known.refused[name].way_out in str(caught.value)


@pytest.mark.parametrize("kind", ROUTES)
def test_numbers_nulls_and_marks_are_read_as_clients_write_them(kind: Any) -> None:
    fields = {
        **ROUTES[kind],
        "model": None,
        "max_tokens": 2.0,
        "n": 1.00,
        "seed": -3.0,
        "temperature": 1.0,
        "logprobs": False,
        "user": 7,
        "metadata": {"a": "b"},
    }
    body = b"\xef\xbb\xbf" + json.dumps(fields).encode()
    request, unknown = parse(body, kind)
    assert unknown == ()
    assert (request.model, request.max_tokens, request.n, request.seed) == (
        None,
        2,
        1,
        -3,
    )
    assert type(request.max_tokens) is int
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        parse(json.dumps({**fields, "max_tokens": 2.5}).encode(), kind)


def test_fields_that_nobody_knows_are_named() -> None:
    body = b'{"prompt": "a", "zebra": 1, "max_token": 3}'
    request, unknown = parse(body, CompletionRequest)
    assert request.max_tokens is None
    assert unknown == ("max_token", "zebra")
