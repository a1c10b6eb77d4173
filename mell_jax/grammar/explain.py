"""Errors of llguidance become sentences that name what to change."""

import json
import re
from collections.abc import Callable

from mell_jax.grammar.grammar import GrammarError

FORMATS = (
    *("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6"),
    *("uuid", "uri"),
)
TOO_DEEP = "nested too deeply; a hundred levels can be compiled"
_MAX_CHARS = 500
_PICTURE = re.compile(r"\n +\d+ \|")  # of the source, with a mark below


def as_grammar_error(message: str) -> GrammarError:
    """Returns what llguidance says of a grammar, without its picture of the source."""
    first = _PICTURE.split(message)[0].strip()
    for pattern, explained in _KNOWN:
        if found := re.search(pattern, message, re.DOTALL):
            return GrammarError(explained(found)[:_MAX_CHARS])
    return GrammarError(f"cannot be used: {first[:_MAX_CHARS]}")


def refused_keywords(names: list[str]) -> str:
    """Returns the sentence for keywords of JSON schema that cannot be kept to."""
    listed = ", ".join(json.dumps(name) for name in sorted(names))
    word = "keyword" if len(names) == 1 else "keywords"
    return (
        f"has the {word} {listed}, which cannot be kept to while text is generated; "
        "leave out what is refused, or say it in a description"
    )


def _keywords(found: re.Match[str]) -> str:
    return refused_keywords(json.loads(found[1]))


def _format(found: re.Match[str]) -> str:
    return (
        f"has the format {found[1].strip()!r:.60}, which is not known; known are "
        f"{', '.join(FORMATS)}; or write a pattern"
    )


def _one_of(_: re.Match[str]) -> str:
    return (
        'has the keyword "oneOf" with options that may overlap, which cannot be kept '
        'to; write anyOf, or give each option a property with a "const" of its own'
    )


def _look_around(_: re.Match[str]) -> str:
    return (
        "has a regular expression with look-around, which is not known; write it "
        "without (?=, (?!, (?<= and (?<!"
    )


def _regex(found: re.Match[str]) -> str:
    return f"has a regular expression that cannot be used: {found[1].strip()}"


def _empty(_: re.Match[str]) -> str:
    return "allows no text at all; give it a way to end"


def _too_large(found: re.Match[str]) -> str:
    return f"is too large or too ambiguous to be followed: {found[0].strip()}"


def _too_deep(_: re.Match[str]) -> str:
    return f"is {TOO_DEEP}"


_KNOWN: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Unimplemented keys: (\[.*?\])", _keywords),
    (r"Unknown format: ([^\n]*)", _format),
    (r"oneOf constraints are not supported", _one_of),
    (r"look-around", _look_around),
    (r"regex parse error:.*?\nerror: ([^\n]*)", _regex),
    (r"\ANoExtension", _empty),
    (
        r"(Too many items|too many (states|expressions)|Current row has \d+ items|"
        r"fuel exhausted|schema too large|initial lexer configuration)[^\n;]*",
        _too_large,
    ),
    (r"recursion limit exceeded|too deeply nested", _too_deep),
)
