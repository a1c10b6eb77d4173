"""Finds what llguidance would pass over in a grammar without a word.

What stands in a JSON schema is kept to, is an annotation (`title`, `default`, a keyword
that no draft has), or is refused by name: text that does not fit its schema is worse
than none. Each rule here says what would happen without it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from mell_jax.grammar.explain import FORMATS, TOO_DEEP, refused_keywords

REFUSED = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
        *("uniqueItems", "propertyNames", "dependentRequired", "dependentSchemas"),
        *("dependencies", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
        *("disallow", "divisibleBy", "extends"),  # of draft 3
    }
)
"""Keywords of any draft that would constrain and cannot."""
_MAX_EXACT = 2**53  # above, integers are rounded
_NUMBERS = (
    "const",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
)
_OLD_DRAFT = re.compile(r"json-schema\.org/draft(-0\d|/2019-09)/")
_TEMPERATURE = re.compile(r"^\s*[!?]?\w+\s*\[[^\]\n]*\btemperature\s*=", re.MULTILINE)

Schema = Mapping[str, Any]


def find_unkept(source: str) -> str:
    """Returns what is wrong with a grammar, "" if nothing is.

    Args:
        source: as `Grammar.source` has it.
    """
    try:
        errors = (error for text in _texts(source) for error in _errors(text))
        return next(errors, "")
    except RecursionError:
        return f"has a schema that is {TOO_DEEP}"


def _errors(text: str) -> Iterator[str]:
    for schema in _schemas(text):
        if isinstance(schema, dict) and (error := find_unkept_in(schema)):
            yield error
    if _TEMPERATURE.search(text):
        yield (
            'has the attribute "temperature", which is ignored; it is a parameter of '
            "the whole request"
        )


def find_unkept_in(root: Schema) -> str:
    """Returns what of a schema would be passed over, "" if nothing is."""
    options = root.get("x-guidance")
    if isinstance(options, dict) and options.get("lenient"):
        return 'has "lenient" in "x-guidance", which passes over keywords; leave it out'
    for schema in _applied(root):
        for rule in _RULES:
            if error := rule(schema, root):
                return error
    return ""


def _applied(root: Schema) -> Iterator[Schema]:
    """Yields the schemas that say something of the text, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if id(schema) in seen:
            continue
        seen.add(id(schema))
        yield schema
        waiting += _inner(schema)
        target = _target(schema["$ref"], root) if "$ref" in schema else root
        if target is None or ("$id" in schema and schema is not root):
            waiting += _everything(root)  # it may be any of these
        else:
            waiting.append(target)


def _inner(schema: Schema) -> Iterator[Schema]:
    values = [schema.get("additionalItems"), schema.get("additionalProperties")]
    for name in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
        found = schema.get(name)
        values += found if isinstance(found, list) else [found]
    for name in ("properties", "patternProperties"):
        if isinstance(found := schema.get(name), dict):
            values += found.values()
    return (value for value in values if isinstance(value, dict))


def _target(reference: Any, root: Schema) -> Any:
    """Returns what a reference names; None where that is not known here."""
    if reference == "#":
        return root
    if not (isinstance(reference, str) and reference.startswith("#/")):
        return None
    found: Any = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found if isinstance(found, dict) else {}


def _everything(root: Schema) -> Iterator[Schema]:
    """Yields whatever could be a schema."""
    waiting: list[Any] = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            value = list(value.values())
        waiting += value if isinstance(value, list) else []


def _no_refused(schema: Schema, _: Schema) -> str:
    names = sorted(REFUSED.intersection(schema))
    return refused_keywords(names) if names else ""


def _no_lost_prefix(schema: Schema, root: Schema) -> str:
    """An older draft has arrays of `items`, and then `prefixItems` means nothing."""
    is_old = "additionalItems" in schema or isinstance(schema.get("items"), list)
    if "prefixItems" in schema and (is_old or _OLD_DRAFT.search(_draft(root))):
        return (
            'has the keyword "prefixItems" beside what older drafts have for it; '
            'leave out "additionalItems" and arrays of "items", and name draft 2020-12'
        )
    return ""


def _no_const_of_old(schema: Schema, root: Schema) -> str:
    if "const" in schema and "draft-04" in _draft(root):
        return 'has the keyword "const", which draft 4 does not have; write an enum'
    return ""


def _no_rounded(schema: Schema, _: Schema) -> str:
    for name in _NUMBERS:
        waiting = [schema.get(name)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, int) and not (-_MAX_EXACT <= value <= _MAX_EXACT):
                return (
                    f'has in "{name}" a number that would be rounded; integers '
                    f"go to {_MAX_EXACT}"
                )
            if isinstance(value, dict):
                value = list(value.values())
            waiting += value if isinstance(value, list) else []
    return ""


def _no_names_twice(schema: Schema, _: Schema) -> str:
    """Free names may come twice, and then count for one."""
    least, required = schema.get("minProperties"), schema.get("required")
    named = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:
        return (
            f'has "minProperties" of {least:.0f}, which cannot be kept to: names that '
            f'are free may come twice; at most one more than are "required"'
        )
    return ""


def _no_odd_required(schema: Schema, _: Schema) -> str:
    if isinstance(schema.get("required", []), list):
        return ""
    return (
        'has the keyword "required" with a value that is no list; list the names in '
        "the schema of the object"
    )


def _no_unknown_format(schema: Schema, _: Schema) -> str:
    if schema.get("format") == "unknown":
        return f'has the format "unknown"; known are {", ".join(FORMATS)}'
    return ""


_RULES: tuple[Callable[[Schema, Schema], str], ...] = (
    _no_refused,
    _no_lost_prefix,
    _no_const_of_old,
    _no_rounded,
    _no_names_twice,
    _no_odd_required,
    _no_unknown_format,
)


def _draft(root: Schema) -> str:
    name = root.get("$schema")
    return name if isinstance(name, str) else ""


def _texts(source: str) -> list[str]:
    """Returns the Lark texts of a source."""
    if not source.startswith("{"):
        return [source]
    return [part["lark_grammar"] for part in json.loads(source)["grammars"]]


def _schemas(text: str) -> Iterator[Any]:
    """Yields the schemas that stand in a Lark text behind `%json`."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"%json\s*(?=\{)", text):
        try:
            yield decoder.raw_decode(text, found.end())[0]
        except ValueError:
            continue  # it stands in a comment, or llguidance will say what it is
