"""Schemas of all keywords that are kept to, alone and together; every answer may end.

Names and texts are made of few letters, so that a small vocabulary writes them, too.
"""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.grammar.corpus_shapes import SHAPES

Schema = dict[str, Any] | bool
INT = {"type": "integer", "minimum": -99, "maximum": 99}
WORD = {"type": "string", "maxLength": 6}
FLAG = {"type": "boolean"}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
FORMATS = (
    *("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6"),
    *("uuid", "uri"),
)
VALUES: tuple[Any, ...] = (
    *(0, -7, 2.5, "", "a b", 'say "hi"', "a\\b/c", "line\nend", "\t", "ä ö", "日本"),
    *("€ 😀", True, None, [], {}, [1, [2, [3]]], {"a": {"b": [None, False]}}, "\u0001"),
)


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object of just these, by default all of them."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def _texts() -> Iterator[Schema]:
    for least, most in ((0, 0), (0, 5), (3, 3), (2, 9), (20, 24)):
        yield {"type": "string", "minLength": least, "maxLength": most}
    for pattern in (
        *("^a+$", "^[a-f0-9]{4}$", "^(yes|no)$", r"^\d{3}-\d{4}$", "^.{2,4}$", "^$"),
        *("^ä+$", r"^[\u00e4\u00f6]{2}$", r"^\w{1,4} \w+$", r'^"q"$', r"^a\.b$"),
        *("^(ab)*c?$", "^[^a-z]{1,3}$", r"^\\{2}$", "^a/b$", "^(a|b(c|d)){2}$"),
        *("^(日|€)$", r"^[\s]a$", "^x{0,3}y{2,}$"),
    ):
        yield {"type": "string", "pattern": pattern}
    for pattern in ("ab", "^日|€$", "^a|b"):  # more before it, or behind it
        yield {"type": "string", "pattern": pattern, "maxLength": 8}
    yield {"type": "string", "pattern": "^a[a-z]*$", "minLength": 3, "maxLength": 5}
    for name in FORMATS:
        yield {"type": "string", "format": name}
    yield {"type": "string", "format": "email", "maxLength": 20}
    yield {"type": "array", "items": {"type": "string", "format": "date"}, **_ITEMS}


_ITEMS = {"minItems": 1, "maxItems": 3}


def _numbers() -> Iterator[Schema]:
    bounds: tuple[dict[str, Any], ...] = (
        *({"minimum": 0, "maximum": 9}, {"minimum": -5, "maximum": 5}),
        *({"exclusiveMinimum": 0, "exclusiveMaximum": 3}, {"minimum": 98}),
        *({"maximum": -98}, {"exclusiveMinimum": 1000}, {"exclusiveMaximum": -1}),
        *({"minimum": 7, "maximum": 7}, {"minimum": -130, "maximum": 2047}),
        *({"minimum": 1, "exclusiveMaximum": 2}, {"minimum": -1, "maximum": 0}),
        *({"minimum": 0.5, "maximum": 1.25}, {"minimum": 0, "exclusiveMinimum": 3}),
        {"minimum": 123456789, "maximum": 123456999},
    )
    for bound in bounds:
        yield {"type": "number", **bound}
        if bound.get("minimum") != 0.5:
            yield {"type": "integer", **bound}
    yield {"type": "number", "minimum": -0.001, "maximum": 0.001}
    yield {"type": "number", "exclusiveMinimum": 2.5, "exclusiveMaximum": 2.75}
    yield {"type": "number", "minimum": 1e-3, "maximum": 1e3}
    for step in (1, 2, 3, 5, 7, 10, 64):
        yield {"type": "integer", "multipleOf": step}
    for part in (0.5, 0.25, 0.1, 0.01, 1.5, 3):
        yield {"type": "number", "multipleOf": part}
    yield {"type": "integer", "multipleOf": 3, "minimum": 10, "maximum": 99}
    yield {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 4}
    yield {"allOf": [{"type": "integer", "multipleOf": 2}, {"multipleOf": 3}]}
    yield {"type": "integer"}
    yield {"type": "number"}


def _values() -> Iterator[Schema]:
    for value in VALUES:
        yield {"const": value}
    for start in range(0, len(VALUES), 3):
        yield {"enum": list(VALUES[start : start + 4])}
    yield {"enum": [f"option {i}" for i in range(40)]}
    yield {"type": "string", "enum": ["a", "ab", "abc"]}
    yield {"type": "string", "enum": ["a", "b", 3, None]}  # of them texts alone
    yield {"type": "integer", "enum": [1, 5, 300]}
    for kind in ("null", "boolean"):
        yield {"type": kind}
    yield {"type": ["null", "boolean"]}
    yield {"type": ["integer", "null"], "minimum": 3, "maximum": 40}
    yield {"type": ["string", "array"], "maxLength": 3, "maxItems": 0}


def _arrays() -> Iterator[Schema]:
    for least, most in ((0, 0), (0, 3), (2, 2), (1, 5)):
        for items in (INT, FLAG, WORD):
            array = {"type": "array", "items": items}
            yield {**array, "minItems": least, "maxItems": most}
    yield {"type": "array", "items": FLAG}
    yield {"type": "array", "items": False}
    yield {
        "type": "array",
        "items": {"type": "array", "items": INT, **_ITEMS},
        **_ITEMS,
    }
    prefix = {"type": "array", "prefixItems": [INT, WORD, FLAG]}
    yield {**prefix, "items": False}
    yield {**prefix, "items": False, "minItems": 3}
    yield {**prefix, "items": {"type": "null"}, "maxItems": 5}
    yield {**prefix, "items": False, "minItems": 1, "maxItems": 2}
    old = {"$schema": DRAFT_7, "type": "array", "items": [INT, FLAG]}
    yield {**old, "additionalItems": False}
    yield {**old, "additionalItems": {"type": "null"}, "maxItems": 4}
    yield {"$schema": DRAFT_7, "type": "array", "items": INT, "maxItems": 2}


def _objects() -> Iterator[Schema]:
    yield _object({"a": INT, "b": WORD})
    yield _object({"a": INT, "b": WORD, "c": FLAG}, required=["b"])
    yield _object({"a": INT, "b": WORD, "c": FLAG}, required=[])
    yield _object({})
    yield {"type": "object", "maxProperties": 0}
    yield _object({name: FLAG for name in ("a b", "ä", "日", 'q"q', "s\\s", "", "a/b")})
    yield _object({"a": _object({"b": _object({"c": _object({"d": INT})})})})
    yield _object({"list": {"type": "array", "items": _object({"x": INT}), **_ITEMS}})
    for most in (0, 1, 3):
        yield {"type": "object", "additionalProperties": INT, "maxProperties": most}
    yield {"type": "object", "additionalProperties": FLAG, "minProperties": 1}
    yield {"properties": {"a": INT}, "required": ["a", "z"], **_ONLY}
    yield _object({"a": FLAG, "b": FLAG}, required=["a"], minProperties=2)
    yield _object({"a": FLAG, "b": FLAG, "c": FLAG}, required=[], maxProperties=1)
    free = {"type": "object", "additionalProperties": False}
    yield {**free, "patternProperties": {"^[a-c]{1,2}$": INT}, "maxProperties": 2}
    yield {**free, "patternProperties": {"^n_": INT, "^t_": WORD}, "maxProperties": 3}
    yield {**free, "patternProperties": {"^ä": {"type": "null"}}, "maxProperties": 1}
    both = {"properties": {"id": INT}, "patternProperties": {"^x-": WORD}}
    yield {**free, **both, "required": ["id"], "maxProperties": 3}
    yield {**both, "type": "object", "additionalProperties": FLAG}
    yield {"properties": {"no": False, "yes": INT}, **_ONLY}
    yield _object({f"p{i}": FLAG for i in range(30)})
    yield _object({f"p{i}": FLAG for i in range(12)}, required=["p3", "p9"])


_ONLY = {"type": "object", "additionalProperties": INT}


def _together() -> Iterator[Schema]:
    yield {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 12}]}
    yield {"allOf": [WORD, {"minLength": 2}, {"pattern": "^[a-d]*$"}]}
    yield {"allOf": [_object({"a": INT}), {"required": ["a"]}], "title": "t"}
    yield {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]}
    yield {
        "type": "object",
        "allOf": [{"properties": {"a": INT}}, {"properties": {"b": FLAG}}],
        "required": ["a", "b"],
        "maxProperties": 2,
    }
    yield {"allOf": [{"type": "array", "items": INT}, {"minItems": 1, "maxItems": 3}]}
    yield {"anyOf": [INT, WORD, FLAG]}
    yield {"anyOf": [{"type": "null"}, _object({"a": INT})]}
    yield {"anyOf": [{"const": "a"}, {"const": "ab"}, {"pattern": "^c", **WORD}]}
    yield {"anyOf": [{"minimum": 90}, {"maximum": 9}], "type": "integer", "minimum": 0}
    yield {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], **_PAIR}
    yield {"oneOf": [INT, WORD, {"type": "null"}]}
    yield {"oneOf": [_kind("dog", barks=FLAG), _kind("cat", lives=INT)]}
    yield {"type": "array", "items": {"oneOf": [_kind("a", b=FLAG), INT]}, **_ITEMS}
    yield {"allOf": [{"anyOf": [INT, WORD]}, {"anyOf": [FLAG, {"type": "integer"}]}]}
    yield {"anyOf": [{"anyOf": [{"anyOf": [INT]}, FLAG]}, {"allOf": [WORD, WORD]}]}
    yield {"allOf": [{"$ref": "#/$defs/a"}, {"maximum": 5}], "$defs": {"a": INT}}
    yield _object({"v": {"anyOf": [{"type": "array", "items": INT, **_ITEMS}, WORD]}})


_PAIR = _object({"a": FLAG, "b": FLAG}, required=[])


def _kind(name: str, **properties: Any) -> dict[str, Any]:
    return _object({"kind": {"const": name}, **properties})


def _references() -> Iterator[Schema]:
    yield {"$ref": "#/$defs/a", "$defs": {"a": INT}}
    yield {"$ref": "#/definitions/a", "definitions": {"a": WORD}}
    yield {"$ref": "#/$defs/a~1%62", "$defs": {"a/b": FLAG}}
    yield {"$ref": "#/x/1", "x": [0, INT]}
    yield {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": FLAG}}
    yield {"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": INT}}
    yield {
        "type": "array",
        "items": {"$ref": "#/$defs/a"},
        "$defs": {"a": WORD},
        **_ITEMS,
    }
    tree = _object({"v": INT, "kids": {"type": "array", "items": {"$ref": "#"}}})
    yield tree
    yield _object({"v": FLAG, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}})
    yield _object({"v": FLAG, "next": {"$ref": "#"}}, required=["v"])
    nested = {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2}
    yield {"$ref": "#/$defs/n", "$defs": {"n": nested}}
    yield {"$ref": "#/$defs/a", "$defs": {"a": _chain("b"), "b": _chain("a")}}
    yield {"$id": "http://a/b", "$ref": "#/$defs/a", "$defs": {"a": INT}}
    yield {"$schema": DRAFT_4, "$ref": "#/definitions/a", "definitions": {"a": INT}}


def _chain(name: str) -> dict[str, Any]:
    rest = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
    return _object({name: rest})


def _annotated() -> Iterator[Schema]:
    notes = {"title": "t", "description": "d", "default": 1, "examples": [1]}
    yield {**INT, **notes, "deprecated": True, "$comment": "c", "readOnly": True}
    yield _object({"a": {**WORD, **notes}}, description='says "a"')
    yield {
        "type": "string",
        "maxLength": 4,
        "contentEncoding": "base64",
        "nullable": True,
    }


def corpus() -> dict[str, Schema]:
    """Returns the schemas by name."""
    groups = {
        "text": _texts(),
        "number": _numbers(),
        "value": _values(),
        "array": _arrays(),
        "object": _objects(),
        "together": _together(),
        "reference": _references(),
        "annotated": _annotated(),
        "shape": SHAPES,
    }
    return {
        f"{group} {number}: {json.dumps(schema, ensure_ascii=False):.60}": schema
        for group, schemas in groups.items()
        for number, schema in enumerate(schemas)
    }
