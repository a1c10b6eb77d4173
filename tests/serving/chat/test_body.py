"""Bodies as typed values, and the table of a route's fields."""

import json
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.anthropic.fields import MESSAGES
from mell_jax.serving.anthropic.wire import MessagesRequest
from mell_jax.serving.chat.body import read_body, renamed
from mell_jax.serving.chat.fields import Fields, Refusal
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.openai.responses.fields import RESPONSES
from mell_jax.serving.openai.responses.wire import ResponsesRequest
from mell_jax.serving.problem import MalformedMessageError


class Request(msgspec.Struct, frozen=True, kw_only=True):
    n: int
    name: Any = None
    rows: list[int] = []


FIELDS = Fields(
    honoured=frozenset(("n", "name", "rows")),
    harmless=frozenset(("user",)),
    refused={"echo": Refusal(way_out="say it", neutral=(False, 1))},
    inside={"name": Fields(honoured=frozenset("a"), refused={"b": Refusal()})},
)
ROUTES: dict[Any, Fields] = {MessagesRequest: MESSAGES, ResponsesRequest: RESPONSES}
WORDS = st.sampled_from(
    sorted({name for fields in ROUTES.values() for name in fields.honoured})
)
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=5), inner)
    ),
    max_leaves=8,
)


def read(text: str) -> tuple[Request, tuple[str, ...]]:
    return read_body(text.encode(), Request, fields=FIELDS)


def test_fields_are_read_passed_over_refused_or_named() -> None:
    request, unknown = read('{"n": 2.0, "name": "a", "user": [], "zebra": 1, "ape": 2}')
    assert (request.n, request.name) == (2, "a")
    assert unknown == ("ape", "zebra")
    for neutral in ("false", "1", "null"):
        read(f'{{"n": 1, "echo": {neutral}}}')
    for asking in ("true", "0", "2", "[]"):
        with pytest.raises(InvalidRequestError, match=r"^echo is not .*; say it$"):
            read(f'{{"n": 1, "echo": {asking}}}')


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        ("{}", "n", "n is required"),
        ('{"n": "a"}', "n", "n has a wrong type: expected `int`, got `str`"),
        ('{"n": 1.5}', "n", "n has a wrong type: expected `int`"),
        ('{"n": 1, "rows": [0, "a"]}', "rows", "rows has a wrong type at rows[1]: exp"),
        ("[]", "body", "body must be an object: "),
        ("3", "body", "body must be an object: "),
    ],
)
def test_what_is_wrong_is_named(text: str, field: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(text)
    assert caught.value.field == field
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("text", ["", "{", '{"n": ' + "[" * 100_000, '{"n": NaN}'])
def test_what_is_no_json_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        read(text)


@settings(max_examples=300, deadline=None)
@given(value=values, kind=st.sampled_from(list(ROUTES)))
def test_the_field_at_fault_is_never_a_word_of_the_client(
    value: object, kind: Any
) -> None:
    fields = ROUTES[kind]
    try:
        read_body(json.dumps(value).encode(), kind, fields=fields)
    except InvalidRequestError as error:
        assert error.field in {"body", *fields.honoured, *fields.refused}
    except MalformedMessageError as error:  # NaN is no JSON
        assert "not usable JSON" in str(error)


def test_a_field_inside_an_object_is_named_with_its_place() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        FIELDS.check("echo", True, inside="tools[2]")
    assert caught.value.field == "tools"
    assert str(caught.value) == (
        "tools [2] has echo, which is not supported here with True; say it"
    )


def test_objects_and_lists_of_them_have_tables_of_their_own() -> None:
    _, unknown = read('{"n": 1, "name": {"a": 1, "b": null, "c": 2}, "d": 3}')
    assert unknown == ("d", "name.c")
    _, unknown = read('{"n": 1, "name": [{"a": 1}, 7, {"c": 2}]}')
    assert unknown == ("name.c",)
    with pytest.raises(InvalidRequestError, match=r"^name has b, which is not supp"):
        read('{"n": 1, "name": {"b": 1}}')
    with pytest.raises(InvalidRequestError, match=r"^name \[1\] has b, which is not"):
        read('{"n": 1, "name": [{}, {"b": 1}]}')


def test_only_plain_names_go_into_the_header() -> None:
    assert passed_over(()) == passed_over(("a\nb",)) == []
    assert passed_over(("a", "\u00e9", "b")) == [(b"x-mell-unknown-fields", b"a, b")]


def test_a_rule_of_another_api_is_told_by_the_clients_name() -> None:
    error = renamed(InvalidRequestError("max_tokens", "is odd"), {"max_tokens": "most"})
    assert isinstance(error, InvalidRequestError)
    assert (error.field, str(error)) == ("most", "most is odd")
    other = InvalidRequestError("n", "is odd")
    assert renamed(other, {"max_tokens": "most"}) is other
