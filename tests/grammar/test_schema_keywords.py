"""Each keyword of JSON schema is kept to, is an annotation, or is refused by name."""

import json
from typing import Any

import pytest

from mell_jax.grammar.check_child import bytes_table, find_error
from mell_jax.grammar.grammar import Grammar
from mell_jax.grammar.guide import GuideMaker
from mell_jax.grammar.schema_rules import REFUSED

DRAFT_2020_12 = frozenset(
    {
        *("$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor"),
        *("$vocabulary", "$comment", "$defs"),
        *("prefixItems", "items", "contains", "additionalProperties", "properties"),
        *("patternProperties", "dependentSchemas", "propertyNames"),
        *("if", "then", "else", "allOf", "anyOf", "oneOf", "not"),
        *("unevaluatedItems", "unevaluatedProperties"),
        *("type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum"),
        *("minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern"),
        *("maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
        *("maxProperties", "minProperties", "required", "dependentRequired"),
        *("title", "description", "default", "deprecated", "readOnly", "writeOnly"),
        *("examples", "format", "contentEncoding", "contentMediaType"),
        "contentSchema",
    }
)
OLDER = {"definitions", "additionalItems"}
INT = {"type": "integer"}
KEPT: dict[str, tuple[Any, Any, Any]] = {  # a schema, what fits it and what does not
    "type": ({"type": "integer"}, 1, "a"),
    "const": ({"const": {"a": [1, None]}}, {"a": [1, None]}, {"a": [1, 2]}),
    "enum": ({"enum": ["a", 2]}, 2, 3),
    "multipleOf": ({**INT, "multipleOf": 3}, 9, 8),
    "maximum": ({**INT, "maximum": 3}, 3, 4),
    "exclusiveMaximum": ({**INT, "exclusiveMaximum": 3}, 2, 3),
    "minimum": ({**INT, "minimum": 3}, 3, 2),
    "exclusiveMinimum": ({**INT, "exclusiveMinimum": 3}, 4, 3),
    "maxLength": ({"type": "string", "maxLength": 2}, "äö", "äöü"),
    "minLength": ({"type": "string", "minLength": 2}, "äö", "ä"),
    "pattern": ({"type": "string", "pattern": "^a+$"}, "aa", "ab"),
    "format": ({"type": "string", "format": "date"}, "2024-02-28", "2024-02-31"),
    "items": ({"type": "array", "items": INT}, [1, 2], [1, "a"]),
    "prefixItems": ({"type": "array", "prefixItems": [INT]}, [1, "a"], ["a"]),
    "additionalItems": (
        {"type": "array", "items": [INT], "additionalItems": {"type": "null"}},
        [1, None],
        [1, 1],
    ),
    "maxItems": ({"type": "array", "items": INT, "maxItems": 2}, [1, 2], [1, 2, 3]),
    "minItems": ({"type": "array", "items": INT, "minItems": 2}, [1, 2], [1]),
    "properties": ({"type": "object", "properties": {"a": INT}}, {"a": 1}, {"a": "b"}),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^a": INT}},
        {"ab": 1},
        {"ab": "b"},
    ),
    "additionalProperties": (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"a": 1},
        {"b": 1},
    ),
    "required": ({"type": "object", "required": ["a"]}, {"a": 1}, {"b": 1}),
    "maxProperties": (
        {"type": "object", "maxProperties": 1},
        {"a": 1},
        {"a": 1, "b": 1},
    ),
    "minProperties": ({"type": "object", "minProperties": 1}, {"a": 1}, {}),
    "allOf": ({"allOf": [INT, {"minimum": 3}]}, 3, 2),
    "anyOf": ({"anyOf": [INT, {"type": "null"}]}, None, "a"),
    "oneOf": ({"oneOf": [INT, {"type": "null"}]}, None, "a"),
    "$ref": ({"$ref": "#/$defs/i", "$defs": {"i": INT}}, 1, "a"),
    "$defs": ({"$ref": "#/$defs/i", "$defs": {"i": INT}}, 1, "a"),
    "definitions": ({"$ref": "#/definitions/i", "definitions": {"i": INT}}, 1, "a"),
}
ANNOTATIONS: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/a",
    "$anchor": "a",
    "$vocabulary": {},
    "$comment": "a",
    "title": "a",
    "description": "a",
    "default": 1,
    "deprecated": True,
    "readOnly": True,
    "writeOnly": True,
    "examples": [1],
    "contentEncoding": "base64",
    "contentMediaType": "application/json",
    "contentSchema": {"type": "integer"},
}
VALUES: dict[str, Any] = {  # of keywords that are refused
    "uniqueItems": True,
    "minContains": 1,
    "maxContains": 1,
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "$dynamicRef": "#a",
    "$dynamicAnchor": "a",
    "$recursiveRef": "#",
    "$recursiveAnchor": True,
    "divisibleBy": 2,
}
MAKER = GuideMaker(bytes_table())
TOKENIZER = bytes_table().compiled()


def error_of(schema: Any) -> str:
    return find_error(Grammar.from_json_schema(schema).source, TOKENIZER)


def allows(schema: Any, value: Any) -> bool:
    guide = MAKER.make(Grammar.from_json_schema(schema), stop_ids=[256], forces=False)
    mask = guide.advance([]).mask
    for byte in json.dumps(value, ensure_ascii=False).encode():
        if mask is None or not mask[byte // 32] >> (byte % 32) & 1:
            return False
        mask = guide.advance([byte]).mask
    return mask is None or bool(mask[8] & 1)


def test_every_keyword_is_of_one_kind() -> None:
    kinds = (set(KEPT) - OLDER, set(ANNOTATIONS), set(REFUSED & DRAFT_2020_12))
    assert set().union(*kinds) == DRAFT_2020_12
    assert sum(map(len, kinds)) == len(DRAFT_2020_12)


@pytest.mark.parametrize("keyword", KEPT)
def test_what_is_accepted_is_kept_to(keyword: str) -> None:
    schema, good, bad = KEPT[keyword]
    assert error_of(schema) == ""
    assert allows(schema, good)
    assert not allows(schema, bad)


@pytest.mark.parametrize("keyword", ANNOTATIONS)
def test_annotations_change_nothing(keyword: str) -> None:
    schema = {"type": "integer", keyword: ANNOTATIONS[keyword]}
    assert error_of(schema) == ""
    assert allows(schema, 1)
    assert not allows(schema, "a")


PLACES = {
    "top": lambda schema: schema,
    "property": lambda schema: {"properties": {"p": schema}},
    "pattern": lambda schema: {"patternProperties": {"^p": schema}},
    "additional": lambda schema: {"additionalProperties": schema},
    "items": lambda schema: {"items": {"items": schema}},
    "prefix": lambda schema: {"prefixItems": [True, schema]},
    "old items": lambda schema: {"items": [schema]},
    "more items": lambda schema: {"items": [], "additionalItems": schema},
    "any": lambda schema: {"anyOf": [{"allOf": [schema]}]},
    "one": lambda schema: {"oneOf": [schema]},
    "reference": lambda schema: {"$ref": "#/$defs/a", "$defs": {"a": schema}},
    "escapes": lambda schema: {"$ref": "#/a~1%62", "a/b": schema},
    "index": lambda schema: {"$ref": "#/x/1", "x": [0, schema]},
    "old draft": lambda schema: {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "anyOf": [schema],
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_what_is_refused_is_named(keyword: str, place: str) -> None:
    error = error_of(PLACES[place]({keyword: VALUES.get(keyword, {})}))
    assert error.startswith(f'has the keyword "{keyword}", which cannot be kept to')


def test_what_nobody_refers_to_is_not_refused() -> None:
    assert error_of({**INT, "$defs": {"a": {"not": {}}}}) == ""


def test_names_of_properties_are_no_keywords() -> None:
    properties = dict.fromkeys(REFUSED, INT)
    assert error_of({"type": "object", "properties": properties}) == ""
    assert error_of({"enum": [dict.fromkeys(REFUSED, 1)]}) == ""


OLD = "http://json-schema.org/draft-07/schema#"
BIG = 2**53 + 1
SILENT: dict[str, tuple[Any, str]] = {  # what llguidance alone accepts, and ignores
    "lenient": ({"not": {}, "x-guidance": {"lenient": True}}, '"lenient"'),
    "prefix beside additional": (
        {"prefixItems": [INT], "additionalItems": False},
        '"prefixItems"',
    ),
    "prefix of an old draft": ({"$schema": OLD, "prefixItems": [INT]}, '"prefixItems"'),
    "const of draft 4": (
        {"$schema": "http://json-schema.org/draft-04/schema", "const": 3},
        '"const"',
    ),
    "rounded const": ({"const": BIG}, '"const"'),
    "rounded enum": ({"enum": [{"a": [-BIG]}]}, '"enum"'),
    "rounded minimum": ({**INT, "minimum": BIG}, '"minimum"'),
    "names twice": ({"type": "object", "minProperties": 2}, '"minProperties"'),
    "required by itself": (
        {"properties": {"a": {**INT, "required": True}}},
        '"required"',
    ),
    "by an anchor": (
        {"$ref": "#x", "$defs": {"x": {"$anchor": "x", "const": BIG}}},
        '"const"',
    ),
    "below another base": (
        {
            "$defs": {"x": {}},
            "items": {
                "$id": "http://a/b",
                "$ref": "#/$defs/x",
                "$defs": {"x": {"const": BIG}},
            },
        },
        '"const"',
    ),
    "no format": ({"type": "string", "format": "unknown"}, '"unknown"'),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_would_be_passed_over_is_refused(name: str) -> None:
    schema, named = SILENT[name]
    assert named in error_of(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": BIG - 1},
        {"required": ["a"], "minProperties": 2},
        {"$id": "http://a/b", "$ref": "#/$defs/q", "$defs": {"q": {}}},
        {"$schema": OLD, "const": 3},
        {"type": "integer", "format": "int64"},
        {"type": "integer", "x-order": 3, "nullable": True},
    ],
)
def test_what_is_near_it_is_not(schema: Any) -> None:
    assert error_of(schema) == ""


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "format": "regex"}, "has the format 'regex', which is not"),
        ({"oneOf": [INT, {"type": "number"}]}, 'has the keyword "oneOf" with options'),
        ({"type": "string", "pattern": "(?=a)b"}, "has a regular expression with look"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems (3) is greater"),
        ({"type": "text"}, "Invalid type: text"),
        ({"$ref": "http://example.com/a"}, "http://example.com/a"),
        ({"$ref": "#/$defs/no"}, "Pointer '/$defs/no' does not exist"),
        ({"type": "integer", "minimum": "a"}, "'minimum', got \"a\""),
    ],
)
def test_an_error_says_what_is_wrong(schema: Any, says: str) -> None:
    assert says in error_of(schema)


def test_schemas_of_a_lark_grammar_are_looked_at() -> None:
    inner = Grammar.from_json_schema({"const": BIG})
    for grammar in (
        Grammar.from_lark(f'start: "a" | %json {{"const": {BIG}}}'),
        inner.after("</think>"),
    ):
        assert '"const"' in find_error(grammar.source, TOKENIZER)
    assert find_error('start: "%json {"', TOKENIZER) == ""


def test_an_attribute_that_is_ignored_is_refused() -> None:
    text = 'start: x\nx[temperature=0.5]: "a"\n'
    assert '"temperature"' in find_error(text, TOKENIZER)
    assert find_error("start: /[temperature=]/", TOKENIZER) == ""
