"""Arguments that are written as text get types by the tool's schema.

    <arg_value>3</arg_value>     ->  3, where it says integer, and otherwise "3"

Strings are told as they come, other values when they are whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.literals import JSON, as_json, escape, read_value
from mell_jax.text.answers.reader import (
    Marks,
    NotACallError,
    Reader,
    Steps,
    TextEndedError,
    Waits,
)
from mell_jax.text.answers.tools import Tool

_MAX_DEPTH = 16
_KINDS: Mapping[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An argument is one property of a tool's schema.

    Attributes:
        name: its name.
        schema: its own, in which references are those of the whole one.
        kinds: JSON types that its values may have; empty where nothing says so.
        is_required: whether each call has it.
    """

    name: str
    schema: Mapping[str, Any] | bool
    kinds: frozenset[str]
    is_required: bool

    @property
    def is_text(self) -> bool:
        """Returns whether its values are strings, and nothing else."""
        return self.kinds <= {"string"}

    @property
    def choices(self) -> list[str]:
        """Returns the strings that it may be, if they are counted."""
        if isinstance(self.schema, bool):
            return []
        listed = _list(self.schema.get("enum"))
        values = [self.schema["const"]] if "const" in self.schema else listed
        return [value for value in values if isinstance(value, str) and value]


def arguments_of(tool: Tool) -> dict[str, Argument]:
    """Returns the arguments that a tool names, in its order."""
    root = tool.schema
    properties, required = root.get("properties"), _list(root.get("required"))
    kinds = _Kinds(root)
    shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {
        name: Argument(
            name=name,
            schema={**shared, **schema} if isinstance(schema, Mapping) else schema,
            kinds=kinds.of(schema),
            is_required=name in required,
        )
        for name, schema in (
            properties.items() if isinstance(properties, Mapping) else ()
        )
    }


def read_argument(
    calls: Calls, key: str, *, known: Mapping[str, Argument], seen: set[str], end: Marks
) -> Steps[None]:
    """Reads the value of an argument up to its end, and tells of it.

    Args:
        calls: of which one is open.
        key: name of the argument.
        known: arguments that the tool names.
        seen: names that were there before; this one is added.
        end: what the value ends with.

    Raises:
        NotACallError: it was there before.
    """
    if key in seen:
        raise NotACallError
    calls.out.append(("{" if not seen else ", ") + json.dumps(key, ensure_ascii=False))
    calls.out.append(": ")
    seen.add(key)
    kinds = known[key].kinds if key in known else frozenset[str]()
    if kinds <= {"string"}:
        yield from calls.stream(_read_text(calls.reader, calls.out, end=end))
    else:
        yield from calls.flush()
        text = yield from _read_whole(calls.reader, kinds, end=end)
        calls.out.append(value_json(text, kinds))
        yield from calls.flush()


def end_arguments(calls: Calls, *, seen: set[str]) -> Steps[None]:
    """Ends the arguments of a call, and the call."""
    calls.out.append("}" if seen else "{}")
    yield from calls.flush()
    calls.close()


def value_json(text: str, kinds: frozenset[str]) -> str:
    """Returns the JSON of a value that was written as text.

    It is a string where the text is no value of another kind that is allowed.
    """
    found = _json_value(text)
    if found is not None and kinds.intersection(_KINDS[type(json.loads(found))]):
        return found
    return f'"{escape(text)}"'


def _read_text(reader: Reader, out: list[str], *, end: Marks) -> Waits[None]:
    out.append('"')
    for piece in reader.pieces_until(end):
        if piece is None:
            yield
        else:
            out.append(escape(piece))
    out.append('"')


def _read_whole(reader: Reader, kinds: frozenset[str], *, end: Marks) -> Waits[str]:
    """Takes a value up to its end, which may stand in a string of a list as well."""
    start = len(reader.raw)
    if kinds & {"array", "object"}:
        try:
            yield from read_value(reader, [], JSON)
        except (NotACallError, TextEndedError):
            reader.rewind(start)  # its quotes are no quotes
    value = reader.raw[start:]
    return value + (yield from reader.until(end))


def _json_value(text: str) -> str | None:
    """Returns the JSON of a text that is a JSON value, or one of Python's."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return as_json(text)
    return text.strip()


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


@final
class _Kinds:
    """The types that parts of a schema name. Each reference is followed once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known = dict[str, frozenset[str]]()

    def of(self, schema: Any, *, depth: int = 0) -> frozenset[str]:
        """Returns the types that a part names; empty if it names none."""
        if not isinstance(schema, Mapping) or not (depth < _MAX_DEPTH):
            return frozenset()
        if isinstance(schema.get("$ref"), str):
            return self._of_reference(schema["$ref"], depth)
        if "type" in schema:
            named = schema["type"]
            return frozenset(k for k in _list(named) or [named] if isinstance(k, str))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else _list(schema["enum"])
            return frozenset(k for v in values for k in _KINDS.get(type(v), ()))
        keys = ("anyOf", "oneOf", "allOf")
        options = [option for key in keys for option in _list(schema.get(key))]
        found = [self.of(option, depth=depth + 1) for option in options]
        return frozenset().union(*found) if all(found) else frozenset()

    def _of_reference(self, reference: str, depth: int) -> frozenset[str]:
        if reference not in self._known:
            self._known[reference] = frozenset()  # while it is looked for
            part = _resolve(reference, self._root)
            self._known[reference] = self.of(part, depth=depth + 1)
        return self._known[reference]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    at: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        at = at.get(key) if isinstance(at, Mapping) else None
    return at
