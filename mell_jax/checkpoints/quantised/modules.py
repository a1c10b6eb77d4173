"""Modules are chosen by patterns in a file; each format has its own way to match.

Patterns are regular expressions in some formats. Since a file is not trusted, those
that could search without end are refused.
"""

import fnmatch
import re
from dataclasses import dataclass
from enum import Enum
from typing import final

from mell_jax.checkpoints.json_file import Fields, shown

MAX_PATTERN_CHARS = 500
MAX_REPEATS = 4
"""Of any length, in one pattern: a search takes time to the power of their number."""
REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
REPEAT = re.compile(r"(?<!\\)[*+{]")
PREFIX = "re:"


class Matching(Enum):
    """A pattern names modules in one of these ways."""

    WHOLE = "whole"  # the name, or "re:" and an expression its beginning must match
    PREFIX_OR_SUFFIX = "prefix or suffix"  # transformers: up to a dot, or at the end
    PART = "part"  # AutoAWQ: anywhere in the name
    WILDCARD = "wildcard"  # ModelOpt: "model.layers.*.mlp.gate"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The modules that any of some patterns names."""

    patterns: tuple[re.Pattern[str], ...] = ()

    def has(self, module: str) -> bool:
        """Tells whether a module, such as "model.layers.0.mlp.up_proj", is one."""
        return any(pattern.match(module) for pattern in self.patterns)


def read_modules(fields: Fields, key: str, *, matching: Matching) -> Modules:
    """Returns the modules that a list of patterns names; none where it is absent.

    Raises:
      CheckpointError: the value is no list of strings, or an expression is none.
    """
    if not fields.has(key):
        return Modules()
    return Modules(
        patterns=tuple(
            _compiled(fields, key, text, matching) for text in fields.texts(key)
        )
    )


def _compiled(
    fields: Fields, key: str, text: str, matching: Matching
) -> re.Pattern[str]:
    expression = _expression(text, matching)
    is_given = matching is Matching.PREFIX_OR_SUFFIX or text.startswith(PREFIX)
    if is_given and (
        len(text) > MAX_PATTERN_CHARS
        or REPEATED_GROUP.search(text)
        or len(REPEAT.findall(text)) > MAX_REPEATS
    ):
        fields.fail(
            key,
            f"has a pattern that could be searched for without end: {shown(text)}; "
            "name the modules",
        )
    try:
        return re.compile(expression)
    except re.error as error:
        fields.fail(key, f"has {shown(text)}, which is no pattern: {error}")


def _expression(text: str, matching: Matching) -> str:
    match matching:
        case Matching.WHOLE if text.startswith(PREFIX):
            return text.removeprefix(PREFIX)
        case Matching.WHOLE:
            return rf"{re.escape(text)}\Z"
        case Matching.PREFIX_OR_SUFFIX:
            end = rf"(?s:.*){re.escape(text)}\Z"
            return rf"(?:{text})(?:(?<=\.)|(?=\.|\Z))|{end}"
        case Matching.PART:
            return rf"(?s:.*?){re.escape(text)}"
        case Matching.WILDCARD:
            return fnmatch.translate(text)
