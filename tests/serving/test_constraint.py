"""What binds an answer is read alike whatever door it comes by."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.engine.params import NEUTRAL, InvalidRequestError
from mell_jax.grammar import Grammar
from mell_jax.grammar.grammar import StructuralTag
from mell_jax.serving.constraint import FIELDS, grammar_of
from mell_jax.serving.kserve import sampling as kserve
from mell_jax.serving.vllm import convert as vllm

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
LARK = 'start: "a" | "b"\n'
TAG = {
    "triggers": ["<f"],
    "structures": [{"begin": "<f=g>", "schema": SCHEMA, "end": "</f>"}],
}
NEWER_TAG = {
    "format": {
        "type": "triggered_tags",
        "triggers": ["<f"],
        "tags": [
            {
                "begin": "<f=g>",
                "content": {"type": "json_schema", "json_schema": SCHEMA},
                "end": "</f>",
            }
        ],
    }
}
TAGGED = Grammar.from_structural_tags(
    [
        StructuralTag(
            begin="<f=g>", content=Grammar.from_json_schema(SCHEMA), end="</f>"
        )
    ],
    triggers=["<f"],
)
CASES: dict[str, tuple[object, Grammar]] = {  # by vLLM's words
    "json": (SCHEMA, Grammar.from_json_schema(SCHEMA)),
    "regex": ("[0-9]+/x", Grammar.from_regex("[0-9]+/x")),
    "choice": (["yes", 'n"o'], Grammar.from_choice(["yes", 'n"o'])),
    "grammar": (LARK, Grammar.from_lark(LARK)),
    "json_object": (True, Grammar.json_object()),
    "structural_tag": (TAG, TAGGED),
}


@pytest.mark.parametrize("kind", CASES)
def test_structured_outputs_have_each_kind(kind: str) -> None:
    value, grammar = CASES[kind]
    assert grammar_of({"structured_outputs": {kind: value}}) == grammar
    assert grammar_of({"structured_outputs": json.dumps({kind: value})}) == grammar


@pytest.mark.parametrize("kind", ["json", "regex", "choice", "grammar"])
def test_the_older_names_say_the_same(kind: str) -> None:
    value, grammar = CASES[kind]
    assert grammar_of({f"guided_{kind}": value}) == grammar


@pytest.mark.parametrize("tag", [TAG, NEWER_TAG], ids=["older", "newer"])
def test_structural_tags_come_in_two_shapes_and_as_text(tag: dict[str, Any]) -> None:
    assert grammar_of({"structural_tag": tag}) == TAGGED
    assert grammar_of({"structural_tag": json.dumps(tag)}) == TAGGED
    said = {"type": "structural_tag", **tag}
    assert grammar_of({"response_format": said}) == TAGGED


def test_the_formats_of_openai() -> None:
    def read(**said: object) -> Grammar | None:
        return grammar_of({"response_format": said})

    assert read(type="text") is None
    assert read(type="json_object") == Grammar.json_object()
    named = {"name": "n", "schema": SCHEMA, "strict": True}
    found = read(type="json_schema", json_schema=named)
    assert found == Grammar.from_json_schema(SCHEMA)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"structured_outputs": {}},
        {"structured_outputs": {"json": None}},
        {"structured_outputs": {"json_object": False}},
        {"structured_outputs": {"disable_any_whitespace": True}},
        {"response_format": {"type": "text"}},
        dict.fromkeys(FIELDS),
    ],
)
def test_what_asks_for_nothing_is_no_grammar(said: dict[str, Any]) -> None:
    assert grammar_of(said) is None


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"response_format": {"type": "yaml"}}, "must have the type"),
        ({"response_format": {}}, "must have the type"),
        ({"response_format": {"type": "json_schema"}}, "no json_schema.schema"),
        ({"response_format": {"type": "structural_tag"}}, "a list of tags"),
        ({"structured_outputs": {"jsn": {}}}, "none of json, regex"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "one of json, regex"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "not supported"),
        (
            {"structured_outputs": {"disable_additional_properties": True}},
            "not supported",
        ),
        ({"structured_outputs": {"json_object": "yes"}}, "true or false"),
        ({"structured_outputs": "["}, "must be a JSON object"),
        ({"structured_outputs": 7}, "must be an object"),
        ({"guided_json": 7}, "must be a JSON schema"),
        ({"guided_json": "{"}, "is no JSON"),
        ({"guided_regex": 7}, "a regular expression"),
        ({"guided_choice": "yes"}, "a list of texts"),
        ({"guided_choice": []}, "must name one text or several"),
        ({"guided_choice": [1]}, "a list of texts"),
        ({"guided_grammar": " "}, "is empty"),
        ({"structural_tag": {"format": {"type": "any_text"}}}, "format"),
        (
            {
                "structural_tag": {
                    "format": {**NEWER_TAG["format"], "at_least_one": True}
                }
            },
            "at_least_one",
        ),
        (
            {"structural_tag": {"triggers": [1], "structures": []}},
            "triggers that are texts",
        ),
        (
            {"structural_tag": {**TAG, "triggers": ["<g"]}},
            "none of the triggers",
        ),
        (
            {"structural_tag": {"triggers": ["<f"], "structures": [{"begin": "<f"}]}},
            "the end of each tag",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_told_by_field(
    said: dict[str, Any], rule: str
) -> None:
    with pytest.raises(InvalidRequestError, match=rule) as caught:
        grammar_of(said)
    assert caught.value.field == next(iter(said))


GOOD = {
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "structural_tag": TAG,
    "guided_json": SCHEMA,
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": LARK,
}


@given(names=st.sets(st.sampled_from(FIELDS), min_size=2))
def test_two_bindings_are_never_taken_for_one(names: set[str]) -> None:
    assert GOOD.keys() == set(FIELDS)
    with pytest.raises(InvalidRequestError, match="both bind") as caught:
        grammar_of({name: GOOD[name] for name in names})
    assert caught.value.field in names


words = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
values: Any = st.recursive(
    words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "json_schema", "schema", "format", "tags", *CASES])
            | st.text(max_size=3),
            inner | st.sampled_from(["json_schema", "structural_tag", "regex"]),
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(name=st.sampled_from(FIELDS), value=values)
def test_any_value_is_a_grammar_or_a_rule(name: str, value: object) -> None:
    try:
        assert isinstance(grammar_of({name: value}), Grammar | None)
    except InvalidRequestError as error:
        assert error.field == name


PROTOS = {
    "json": {"json_schema": json.dumps(SCHEMA)},
    "regex": {"regex": CASES["regex"][0]},
    "choice": {"choice": pb.ChoiceConstraint(choices=["yes", 'n"o'])},
    "grammar": {"grammar": LARK},
    "json_object": {"json_object": True},
    "structural_tag": {"structural_tag": json.dumps(TAG)},
}


@pytest.mark.parametrize("kind", PROTOS)
def test_the_contract_of_vllm_binds_answers(kind: str) -> None:
    proto: Any = pb.SamplingParams(top_p=1, **PROTOS[kind])  # type: ignore[arg-type]
    assert vllm.params_of(proto, defaults=NEUTRAL).grammar == CASES[kind][1]


def test_the_contract_of_vllm_names_what_is_wrong() -> None:
    assert vllm.params_of(pb.SamplingParams(), defaults=NEUTRAL).grammar is None
    free = pb.SamplingParams(json_object=False)
    assert vllm.params_of(free, defaults=NEUTRAL).grammar is None
    with pytest.raises(InvalidRequestError, match="is no JSON") as caught:
        vllm.params_of(pb.SamplingParams(json_schema="{"), defaults=NEUTRAL)
    assert caught.value.field == "sampling_params.json_schema"


@pytest.mark.parametrize("name", GOOD)
def test_parameters_of_triton_bind_answers(name: str) -> None:
    value = GOOD[name]
    expected = grammar_of({name: value})
    text = json.dumps({name: value})
    assert kserve.params_of(text, others={}, defaults=NEUTRAL).grammar == expected
    plain = value if isinstance(value, str) else json.dumps(value)
    found = kserve.params_of("", others={name: plain}, defaults=NEUTRAL)
    assert found.grammar == expected


def test_parameters_of_triton_name_what_is_wrong() -> None:
    for said in ({"guided_choice": "["}, {"guided_json": "{"}):
        with pytest.raises(InvalidRequestError) as caught:
            kserve.params_of("", others=said, defaults=NEUTRAL)
        assert caught.value.field == next(iter(said))
    two = {"guided_regex": "a", "structured_outputs": '{"regex": "a"}'}
    with pytest.raises(InvalidRequestError, match="both bind"):
        kserve.params_of(json.dumps(two), others={}, defaults=NEUTRAL)
