"""A grammar is a value: the texts that an answer may be, in llguidance's Lark dialect.

Nothing is compiled here; see `check` for whether a grammar can be used, and `guide` for
its use. The syntax is llguidance's `docs/syntax.md`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llguidance.gbnf_to_lark import gbnf_to_lark

from mell_jax.grammar.lark import FREE_TEXT, Word, free_text_until, regex, write

Words = str | Sequence[Word]
"""A text, or its special tokens by id with the texts between them."""
MAX_GRAMMAR_BYTES = 1 << 20
"""Of one grammar, its named parts included."""
_PYTHON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""JSON is written as by `json.dumps`: with no space to choose, most of it is forced."""


class GrammarError(ValueError):
    """A grammar cannot be used; says what is wrong with it and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A grammar is a Lark text that begins with `start`, and others that it names.

    Two that are equal are compiled once.

    Attributes:
        lark: its rules; `@name` stands for a part.
        parts: names and Lark texts of other grammars.

    Raises:
        GrammarError: it is empty or larger than `MAX_GRAMMAR_BYTES`.
    """

    lark: str
    parts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.lark.strip():
            raise GrammarError("is empty; write at least one rule, named start")
        if not (self.size_bytes <= MAX_GRAMMAR_BYTES):
            raise GrammarError(
                f"has {self.size_bytes} bytes; at most {MAX_GRAMMAR_BYTES} can be "
                "compiled"
            )

    @property
    def size_bytes(self) -> int:
        """Returns the size of its texts, those of its parts included."""
        texts = (self.lark, *(text for part in self.parts for text in part))
        return sum(map(_size, texts))

    @property
    def source(self) -> str:
        """Returns what llguidance takes."""
        if not self.parts:
            return self.lark
        named = [{"name": name, "lark_grammar": text} for name, text in self.parts]
        return json.dumps({"grammars": [{"lark_grammar": self.lark}, *named]})

    @classmethod
    def from_json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Self:
        """Returns the JSON texts that a schema allows, written as by `json.dumps`.

        Args:
            schema: the schema, or its JSON text. Keywords that cannot be kept to are
                refused when the grammar is checked. `x-guidance` may change how JSON is
                written; see llguidance's `docs/json_schema.md`.

        Raises:
            GrammarError: it is no schema.
        """
        if isinstance(schema, str):
            schema = _parsed(schema)
        if isinstance(schema, bool):
            schema = {} if schema else {"enum": []}
        if not isinstance(schema, Mapping):
            raise GrammarError(
                f"must be a JSON schema, which is an object, got {schema!r:.100}"
            )
        said = schema.get("x-guidance") or {}
        if not isinstance(said, Mapping):
            raise GrammarError(f"has an x-guidance that is no object, {said!r:.60}")
        style = {**_PYTHON_STYLE, **said}
        try:
            text = json.dumps({**schema, "x-guidance": style}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"is no JSON: {error}") from error
        return cls(lark=f"start: %json {text}\n")

    @classmethod
    def json_object(cls) -> Self:
        """Returns all JSON objects."""
        return cls.from_json_schema({"type": "object"})

    @classmethod
    def from_regex(cls, pattern: str) -> Self:
        """Returns the texts that a regular expression matches as a whole.

        Args:
            pattern: in the syntax of Rust's `regex`: no look-around, no references.
        """
        return cls(lark=f"start: TEXT_MATCH\nTEXT_MATCH: {regex(pattern)}\n")

    @classmethod
    def from_choice(cls, choices: Sequence[str]) -> Self:
        """Returns a few texts.

        Raises:
            GrammarError: there is none, or one is empty.
        """
        texts = [choices] if isinstance(choices, str) else list(choices)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise GrammarError("must name one text or several, none of them empty")
        options = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return cls(lark=f"start: {options}\n")

    @classmethod
    def from_lark(cls, text: str) -> Self:
        """Returns the texts of a grammar in Lark's syntax, or in GBNF or EBNF.

        GBNF is that of llama.cpp, whose rules are written with `::=`.

        Raises:
            GrammarError: it cannot be read as GBNF.
        """
        if "::=" not in text:
            return cls(lark=text)
        try:
            return cls(lark=gbnf_to_lark(text))
        except Exception as error:  # the edge: a reader of others with its own errors
            raise GrammarError(f"cannot be read as GBNF: {error}") from error

    @classmethod
    def from_structural_tags(
        cls, tags: Sequence["StructuralTag"], *, triggers: Sequence[Word]
    ) -> Self:
        """Returns free text in which some beginnings bind what follows.

        Args:
            tags: what may follow.
            triggers: where free text ends, texts or ids of special tokens; each tag
                begins with one of them.

        Raises:
            GrammarError: there is no tag, or one begins with no trigger.
        """
        if not tags:
            raise GrammarError("must have one structural tag or several")
        lines, parts = [f"free_end: {FREE_TEXT}"], list[tuple[str, str]]()
        heads = dict[Word, str]()
        for number, tag in enumerate(tags):
            trigger, rest = tag.split(triggers)
            head = heads.setdefault(trigger, f"trigger_{len(heads)}")
            parts += tag.content.as_parts(f"content_{number}")
            words = (head, write(rest), f"@content_{number}", write(_words(tag.end)))
            lines.append(f"tag_{number}: {' '.join(filter(None, words))}")
        for trigger, head in heads.items():
            attribute, body = free_text_until(trigger)
            lines.append(f"{head}{attribute}: {body}")
        options = " | ".join(f"tag_{number}" for number in range(len(tags)))
        lines.insert(0, f"start: ({options})* free_end")
        return cls(lark="\n".join(lines) + "\n", parts=tuple(parts))

    def after(self, ending: Word, *, opening: Word = "", gap: str = "") -> "Grammar":
        """Returns this grammar behind any text that ends with `ending`.

        What a model thinks is free, and its answer is not: ``after("</think>")``, or
        the id of a special token.

        Args:
            ending: ends the free text.
            opening: begins it, up to four blanks and line breaks before; where it does
                not come, this grammar is from the beginning on. Without it there is
                free text in any case.
            gap: what may stand behind it, or the beginning of that.
        """
        attribute, body = free_text_until(ending)
        gaps = " | ".join(write([gap[:end]]) for end in range(1, len(gap) + 1))
        thought = "thought " + (f"({gaps})?" if gaps else "")
        lines = [f"start: {thought} @answer", f"thought{attribute}: {body}"]
        if opening != "":
            lazy = "" if isinstance(opening, int) else "[lazy]"  # before free text is
            lines[0] = f"start: (opening {thought})? @answer"
            lines.append(f"opening{lazy}: /[ \\n]{{0,4}}/ {write([opening])}")
        return Grammar(lark="\n".join(lines) + "\n", parts=self.as_parts("answer"))

    def or_else(self, other: "Grammar") -> "Grammar":
        """Returns the texts of either."""
        parts = (*self.as_parts("first"), *other.as_parts("second"))
        return Grammar(lark="start: @first | @second\n", parts=parts)

    def as_parts(self, name: str) -> tuple[tuple[str, str], ...]:
        """Returns this grammar as parts of another one, in which it has a name."""
        names = {old: f"{name}_{old}" for old, _ in self.parts}

        def renamed(text: str) -> str:
            for old, new in names.items():
                text = re.sub(rf"@{re.escape(old)}\b", f"@{new}", text)
            return text

        return (
            (name, renamed(self.lark)),
            *((names[old], renamed(text)) for old, text in self.parts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuralTag:
    """Text that begins like this goes on by a grammar, and ends like that."""

    begin: Words
    content: Grammar
    end: Words

    def split(self, triggers: Sequence[Word]) -> tuple[Word, tuple[Word, ...]]:
        """Returns the trigger that this tag begins with, and the rest of its beginning.

        Raises:
            GrammarError: it begins with none.
        """
        first, *others = _words(self.begin) or ("",)
        for trigger in triggers:
            if trigger == first and first != "":
                return trigger, tuple(others)
            if isinstance(first, str) and isinstance(trigger, str) and trigger:
                rest = first.removeprefix(trigger)
                if rest != first:
                    return trigger, (rest, *others)
        raise GrammarError(
            f"has a tag that begins with {self.begin!r:.60}, which begins with none of "
            f"the triggers {list(triggers)!r:.100}"
        )


def _parsed(text: str) -> Any:
    if not (_size(text) <= MAX_GRAMMAR_BYTES):
        raise GrammarError(
            f"has {_size(text)} bytes; at most {MAX_GRAMMAR_BYTES} can be compiled"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"is no JSON: {error}") from error


def _words(words: Words) -> tuple[Word, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def _size(text: str) -> int:
    return len(text.encode("utf-8", errors="surrogatepass"))
