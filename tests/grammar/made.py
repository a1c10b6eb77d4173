"""Schemas and languages that hypothesis makes, each with a reference of its own."""

import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

LETTERS = "abc d-_ä"
NAMES = st.text("abcäd_ ", min_size=1, max_size=4)


def _bounds(names: tuple[str, str], *, most: int) -> st.SearchStrategy[dict[str, int]]:
    """The least and the most of something, in this order."""
    pairs = st.tuples(st.integers(0, most), st.integers(0, most)).map(sorted)
    return pairs.map(lambda pair: dict(zip(names, pair, strict=True)))


def _numbers() -> st.SearchStrategy[dict[str, Any]]:
    ends = st.integers(-300, 300)
    pairs = st.tuples(ends, st.integers(1, 500)).map(lambda p: (p[0], p[0] + p[1]))
    kinds = st.sampled_from(["integer", "number"])
    lows = st.sampled_from(["minimum", "exclusiveMinimum"])
    return st.builds(
        lambda kind, pair, low: {"type": kind, low: pair[0], "maximum": pair[1]},
        kinds,
        pairs,
        lows,
    )


def _texts() -> st.SearchStrategy[dict[str, Any]]:
    return _bounds(("minLength", "maxLength"), most=6).map({"type": "string"}.__or__)


def _values() -> st.SearchStrategy[Any]:
    leaves = (
        st.none() | st.booleans() | st.integers(-99, 99) | st.text(LETTERS, max_size=5)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
        ),
        max_leaves=4,
    )


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = draw(st.lists(st.sampled_from([*properties, "z"]), unique=True))
    extra = draw(st.just(False) | inner)
    if extra is False:
        required = [name for name in required if name in properties]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": extra,
    }


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    prefixes = st.lists(inner, max_size=2).map(
        lambda items: {"prefixItems": items} if items else {}
    )
    return st.builds(
        lambda bounds, prefix, items: {
            "type": "array",
            **bounds,
            **prefix,
            "items": items,
        },
        _bounds(("minItems", "maxItems"), most=4),
        prefixes,
        inner,
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of which each allows something and nothing without end."""
    leaves = (
        _numbers()
        | _texts()
        | st.sampled_from([{"type": "boolean"}, {"type": "null"}])
        | st.lists(_values(), min_size=1, max_size=4).map(lambda v: {"enum": v})
        | _values().map(lambda value: {"const": value})
    )

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        options = st.lists(inner, min_size=1, max_size=3)
        return (
            _objects(inner)
            | _arrays(inner)
            | options.map(lambda schemas: {"anyOf": schemas})
            | inner.map(lambda schema: {"allOf": [schema, {"title": "same"}]})
            | inner.map(lambda one: {"$ref": "#/$defs/a", "$defs": {"a": one}})
        )

    return st.recursive(leaves, larger, max_leaves=6).filter(_has_references_at_top)


def _has_references_at_top(schema: dict[str, Any]) -> bool:
    """References are written as they are at the top."""
    inner = [value for key, value in schema.items() if key != "$ref"]
    text = str(schema.get("$defs", {})) if "$ref" in schema else str(inner)
    return "$ref" not in text


@dataclass(frozen=True, slots=True)
class Language:
    """A language as a regular expression, and as rules that have nothing of it."""

    pattern: str
    lark: str

    def has(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text) is not None


Node = tuple[str, tuple[Any, ...]]


def languages() -> st.SearchStrategy[Language]:
    """Languages without the empty text."""
    return nodes().map(_language).filter(lambda one: not one.has(""))


def nodes() -> st.SearchStrategy[Node]:
    """Trees of regular expressions in what all dialects share."""
    words = st.text(LETTERS, min_size=1, max_size=3).map(lambda text: ("word", (text,)))
    sets = st.sets(st.sampled_from(LETTERS), min_size=1, max_size=4)
    leaves = words | st.tuples(sets, st.booleans()).map(lambda pair: ("set", pair))

    def larger(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        counts = st.tuples(st.integers(0, 2), st.integers(0, 2))
        repeats = st.tuples(inner, counts.map(lambda pair: (pair[0], sum(pair) or 1)))
        return (
            several.map(lambda parts: ("all", parts))
            | several.map(lambda parts: ("any", parts))
            | repeats.map(lambda pair: ("repeat", pair))
        )

    return st.recursive(leaves, larger, max_leaves=8)


def pattern_of(node: Node) -> str:
    """A node as a regular expression."""
    kind, parts = node
    if kind == "word":
        return re.escape(parts[0]).replace("\\ ", " ")
    if kind == "set":
        letters, is_negated = parts
        inside = "".join(sorted(letters - {"-"})) + ("\\-" if "-" in letters else "")
        return f"[{'^' if is_negated else ''}{inside}]"
    if kind == "repeat":
        inner, (least, most) = parts
        return f"({pattern_of(inner)}){{{least},{most}}}"
    return f"({('' if kind == 'all' else '|').join(map(pattern_of, parts))})"


def _language(node: Node) -> Language:
    rules: list[str] = []
    start = _rule(node, rules)
    text = "\n".join([f"start: {start}", *rules])
    return Language(pattern=pattern_of(node), lark=text + "\n")


def _rule(node: Node, rules: list[str]) -> str:
    """The name of a rule for a node, which is put among the rules."""
    kind, parts = node
    if kind == "word":
        body = f'"{parts[0]}"'
    elif kind == "set":
        body = f"/{pattern_of(node)}/"
    elif kind == "repeat":
        inner, (least, most) = parts
        name = _rule(inner, rules)
        body = " ".join([name] * least + [f"({name})?"] * (most - least))
    else:
        names = [_rule(part, rules) for part in parts]
        body = (" " if kind == "all" else " | ").join(names)
    rules.append(f"rule_{len(rules)}: {body}")
    return f"rule_{len(rules) - 1}"
