"""Grammars that nobody means well with, and some that are only large."""

import json
from typing import Any

from mell_jax.grammar.grammar import Grammar


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _laughs(levels: int, *, keyword: str) -> dict[str, Any]:
    """Each definition has the one before it, ten times."""
    defs: dict[str, Any] = {"d0": {"type": "object", "properties": {"x": {}}}}
    for level in range(1, levels):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        defs[f"d{level}"] = {keyword: [inner] * 10}
    return {"$ref": f"#/$defs/d{levels - 1}", "$defs": defs}


def _doubled(levels: int) -> dict[str, Any]:
    """What is required twice at each level, written out."""
    defs: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels):
        inner = {"$ref": f"#/$defs/d{level - 1}", "title": "t"}
        defs[f"d{level}"] = {"properties": {"a": inner, "b": inner}}
    both = [{"$ref": f"#/$defs/d{levels - 1}"}] * 2
    return {"allOf": both, "$defs": defs}


SCHEMAS: dict[str, Any] = {
    "nested 60": _nested(60),
    "laughs anyOf": _laughs(30, keyword="anyOf"),
    "laughs allOf": _laughs(30, keyword="allOf"),
    "laughs oneOf": _laughs(12, keyword="oneOf"),
    "doubled": _doubled(40),
    "refers to itself": {"$ref": "#"},
    "refers in a circle": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "all of itself": {"allOf": [{"$ref": "#"}, {"type": "object"}]},
    "two trees": {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {
            "a": {"properties": {"c": {"$ref": "#/$defs/a"}}},
            "b": {"properties": {"c": {"$ref": "#/$defs/b"}}},
        },
    },
    "chain of 3,000": {
        "$ref": "#/$defs/d2999",
        "$defs": {
            "d0": {"type": "integer"},
            **{f"d{i}": {"$ref": f"#/$defs/d{i - 1}"} for i in range(1, 3000)},
        },
    },
    "items 100,000": {"type": "array", "minItems": 100_000, "maxItems": 100_000},
    "items 10^18": {"type": "array", "minItems": 10**15, "maxItems": 10**18},
    "length 10^9": {"type": "string", "minLength": 10**9, "maxLength": 2 * 10**9},
    "length 5,000 and a pattern": {
        "type": "string",
        "minLength": 5000,
        "maxLength": 100_000,
        "pattern": "^(a|b|[^c]{3,90})*$",
    },
    "multiple of 1e-15": {"type": "number", "multipleOf": 1e-15},
    "multiple of 999,983": {"type": "integer", "multipleOf": 999_983},
    "multiples of primes": {
        "allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949)]
    },
    "range of 10^15": {
        "type": "integer",
        "minimum": -(10**15) + 7,
        "maximum": 10**15 - 7,
    },
    "patterns that overlap": {
        "patternProperties": {f"^(a|b)*{i}(c|d){{9}}": {} for i in range(200)}
    },
    "all of patterns": {
        "allOf": [
            {"type": "string", "pattern": f"(a|b)*{i}(a|b){{12}}"} for i in range(9)
        ]
    },
    "properties 2,000, none required": {
        "type": "object",
        "properties": {f"p{i}": {"type": "integer"} for i in range(2000)},
    },
    "one of 300": {"oneOf": [{"const": {"a": i}} for i in range(300)]},
}
REGEXES = {
    "(a+)+b": "(a+)+b",
    "a{100000}": "a{100000}",
    "powers of repeats": "((((((a{1,9}){1,9}){1,9}){1,9}){1,9}){1,9}){1,9}",
    "states 2^30": "(a|b)*a(a|b){30}",
    "states 2^14": "(a|b)*a(a|b){14}",
    "words": r"(\w+\s*)+\d{3,200}[^\w]{2,90}",
    "any, far": ".*x.{0,1000}y.{0,1000}z",
    "groups 5,000": "(" * 5000 + "a" + ")" * 5000,
    "options 20,000": "|".join(f"w{i:x}q" for i in range(20_000)),
    "classes": r"[\p{L}\p{N}]{1,2000}",
    "look-ahead": "(?=a)b",
    "reference": r"(a)\1",
}
LARKS = {
    "calls itself": "start: start start | \n",
    "left": 'start: start "a" | start "b" | "c"\n',
    "ambiguous": 'start: e\ne: e e | e e e | "a" | "b" |\n',
    "repeats": 'start: (("a" | "b"){0,1000}){0,1000}\n',
    "repeats of a rule": 'start: x{100000}\nx: "a" | "b"\n',
    "groups": "start: " + "(" * 5000 + '"a"' + ")" * 5000 + "\n",
    "doubling": "start: r0\n"
    + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(60))
    + 'r60: "a"\n',
    "doubling terminals": "start: R0\n"
    + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(60))
    + "R60: /a/\n",
    "terminal of itself": "start: A\nA: A | /a/\n",
    "and, not": "start: A\nA: /(a|b)*a(a|b){12}/ & ~/(a|b)*b(a|b){12}/\n",
    "10,000 rules": "start: r0\n"
    + "".join(f'r{i}: "x{i}" | r{i + 1}\n' for i in range(10_000))
    + 'r10000: "a"\n',
    "nested 2,000": "start: %json " + '{"items":' * 2000 + "{}" + "}" * 2000,
    "nested 200": "start: %json " + '{"items":' * 200 + "{}" + "}" * 200,
    "null": "start: \x00\n",
    "no rule": "x: y\n",
    "tokens": "start: <[0-200000]> <|unknown|>\n",
    "a megabyte": "start: " + " | ".join(f'"w{i}"' for i in range(90_000)) + "\n",
    "nothing but brackets": "start: " + "[" * 500_000,
}
GOOD_ENUM = {"enum": [f"value {i}" for i in range(1000)]}


def grammars() -> dict[str, Grammar]:
    """Returns all of them by name."""
    schemas = {name: Grammar.from_json_schema(s) for name, s in SCHEMAS.items()}
    regexes = {name: Grammar.from_regex(text) for name, text in REGEXES.items()}
    return (
        schemas | regexes | {name: Grammar(lark=text) for name, text in LARKS.items()}
    )


def large_schema() -> str:
    """Returns 10 MB."""
    return json.dumps({"enum": [f"{i:0100d}" for i in range(100_000)]})
