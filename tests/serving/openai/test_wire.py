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
        assert error.field in {"body", *kind.__struct_fields__}
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
