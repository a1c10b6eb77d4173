"""A wish that binds an answer to a shape becomes a grammar, at every door alike.

    {"json": {...}}  {"regex": "..."}  {"choice": [...]}  {"grammar": "..."}
    {"json_object": true}  {"structural_tag": {...}}

These are the words of vLLM's `structured_outputs`. OpenAI's `response_format`, vLLM's
older `guided_*` and its gRPC contract say the same in other words.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mell_jax.engine.params import InvalidRequestError
from mell_jax.grammar import Grammar, GrammarError
from mell_jax.grammar.grammar import StructuralTag

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
_WRITERS = {  # options that say how JSON is written, with values that change nothing
    "disable_any_whitespace": (False, True),  # there is none to choose
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
    "disable_fallback": (False, True),
}
FIELDS = ("response_format", "structured_outputs", *_GUIDED)
"""Fields of requests that bind an answer; at most one may."""


def grammar_of(fields: Mapping[str, object]) -> Grammar | None:
    """Returns the grammar that a request asks for, or None.

    Args:
      fields: values by name, of `FIELDS`; null is as good as nothing.

    Raises:
      InvalidRequestError: two bind the answer, or one cannot; names the field.
    """
    found: dict[str, Grammar] = {}
    for name in FIELDS:
        value = fields.get(name)
        if value is not None:
            grammar = read_field(name, value)
            if grammar is not None:
                found[name] = grammar
    if len(found) > 1:
        first, second, *_ = found
        raise InvalidRequestError(
            second, f"and {first} both bind the answer to a shape; give one of them"
        )
    return next(iter(found.values()), None)


def read_field(name: str, value: object) -> Grammar | None:
    """Returns the grammar of one of `FIELDS`; None where it asks for nothing.

    Raises:
      InvalidRequestError: names the field.
    """
    try:
        if name == "response_format":
            return _of_response_format(value)
        if name == "structured_outputs":
            return _of_structured_outputs(value)
        return make_grammar(_GUIDED[name], value)
    except GrammarError as error:
        raise InvalidRequestError(name, str(error)) from error


def make_grammar(kind: str, value: object) -> Grammar | None:
    """Returns the grammar of one constraint.

    Args:
      kind: a word of `structured_outputs`.
      value: what it says.

    Raises:
      GrammarError: the value is none, or cannot be kept to.
    """
    return _MAKERS[kind](value)


def _of_response_format(value: object) -> Grammar | None:
    fields = _object(value)
    match fields.get("type"):
        case "text":
            return None
        case "json_object":
            return Grammar.json_object()
        case "json_schema":
            described = fields.get("json_schema")
            if not isinstance(described, Mapping) or described.get("schema") is None:
                raise GrammarError("has no json_schema.schema; write the schema there")
            return _json(described["schema"])
        case "structural_tag":
            return _structural_tag(fields)
        case other:
            raise GrammarError(
                "must have the type text, json_object, json_schema or structural_tag, "
                f"got {other!r:.100}"
            )


def _of_structured_outputs(value: object) -> Grammar | None:
    fields = {name: said for name, said in _object(value).items() if said is not None}
    found: dict[str, Grammar] = {}
    for name, said in fields.items():
        if name in _WRITERS:
            if said not in _WRITERS[name]:
                raise GrammarError(
                    f"has {name}, which is not supported here; say it in the schema"
                )
        elif name not in _MAKERS:
            raise GrammarError(
                f"has {name!r:.60}, which is none of {', '.join(_MAKERS)}"
            )
        elif (grammar := make_grammar(name, said)) is not None:
            found[name] = grammar
    if len(found) > 1:
        raise GrammarError(f"may have one of {', '.join(found)}, not several")
    return next(iter(found.values()), None)


def _json(value: object) -> Grammar:
    if not isinstance(value, Mapping | bool | str):
        raise GrammarError(
            f"must be a JSON schema, which is an object, got {value!r:.100}"
        )
    return Grammar.from_json_schema(value)


def _json_object(value: object) -> Grammar | None:
    if not isinstance(value, bool):
        raise GrammarError(
            f"must have true or false in json_object, got {value!r:.100}"
        )
    return Grammar.json_object() if value else None


def _regex(value: object) -> Grammar:
    return Grammar.from_regex(_text(value, what="a regular expression"))


def _lark(value: object) -> Grammar:
    return Grammar.from_lark(_text(value, what="a grammar"))


def _choice(value: object) -> Grammar:
    if not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise GrammarError(f"must be a list of texts, got {value!r:.100}")
    return Grammar.from_choice(value)


def _structural_tag(value: object) -> Grammar:
    """Reads vLLM's older shape, {"structures", "triggers"}, or {"format": ...}."""
    fields = _object(value)
    if "format" not in fields:
        return _tags(
            fields.get("structures"), triggers=fields.get("triggers"), read=_schema_of
        )
    inner = _object(fields["format"])
    kind = inner.get("type")
    if kind != "triggered_tags":
        return _content(inner)
    for name in ("at_least_one", "stop_after_first"):
        if inner.get(name):
            raise GrammarError(f"has {name}, which is not supported here; leave it out")
    return _tags(
        inner.get("tags"),
        triggers=inner.get("triggers"),
        read=lambda tag: _content(_object(tag.get("content"))),
    )


def _tags(
    tags: object, *, triggers: object, read: Callable[[Mapping[str, Any]], Grammar]
) -> Grammar:
    if not (isinstance(tags, list) and isinstance(triggers, list)):
        raise GrammarError("must have a list of tags and a list of triggers")
    if not all(isinstance(trigger, str) for trigger in triggers):
        raise GrammarError(f"must have triggers that are texts, got {triggers!r:.100}")
    made = []
    for each in tags:
        tag = _object(each)
        made.append(
            StructuralTag(
                begin=_text(tag.get("begin"), what="the begin of each tag"),
                content=read(tag),
                end=_text(tag.get("end"), what="the end of each tag"),
            )
        )
    return Grammar.from_structural_tags(made, triggers=triggers)


def _schema_of(tag: Mapping[str, Any]) -> Grammar:
    return _json({} if tag.get("schema") is None else tag["schema"])


def _content(content: Mapping[str, Any]) -> Grammar:
    match content.get("type"):
        case "json_schema":
            return _json(content.get("json_schema"))
        case "regex":
            return _regex(content.get("pattern"))
        case "grammar":
            return _lark(content.get("grammar"))
        case other:
            raise GrammarError(
                "has a format that is not supported here; there are triggered_tags, "
                f"json_schema, regex and grammar, got {other!r:.60}"
            )


def _object(value: object) -> Mapping[str, Any]:
    """Returns an object, also of its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"must be a JSON object: {error!s:.200}") from error
    if not isinstance(value, Mapping):
        raise GrammarError(f"must be an object, got {value!r:.100}")
    return value


def _text(value: object, *, what: str) -> str:
    if not isinstance(value, str):
        raise GrammarError(f"must have a text for {what}, got {value!r:.100}")
    return value


_MAKERS: Mapping[str, Callable[[object], Grammar | None]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _lark,
    "json_object": _json_object,
    "structural_tag": _structural_tag,
}
