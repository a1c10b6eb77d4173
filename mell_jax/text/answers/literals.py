"""Reads values as JSON and Python write them, and writes them as JSON.

    [1, {'a': True}   ->   [1, {"a": true}       (Python; it waits for the rest)

JSON is written as it stands, white space too. There is a stack instead of recursion:
nothing that a model writes can be too deep for it.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from mell_jax.text.answers.reader import (
    NotACallError,
    Reader,
    TextEndedError,
    Waits,
)

_MAX_DEPTH = 100
_CLOSERS = {"[": "]", "{": "}"}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_HEX = re.compile(r"[0-9a-fA-F]+")
_PLAIN_JSON = re.compile(r'[^"\\\x00-\x1f]*')
_PLAIN_PYTHON = {"'": re.compile(r"[^'\\]*"), '"': re.compile(r'[^"\\]*')}
_PYTHON_ESCAPES = {
    **{letter: letter for letter in "\\'\"/"},  # JSON's, too
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"},
    "0": "\0",
    "\n": "",
}
_SIZES = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A dialect says how values are written.

    Attributes:
        is_json: whether text is copied; otherwise strings are those of Python, and a
            comma may stand before the end of a list.
        words: values that are words, with their JSON.
    """

    is_json: bool
    words: Mapping[str, str]


_WORDS = {word: word for word in ("true", "false", "null")}
JSON = Dialect(is_json=True, words=MappingProxyType(_WORDS))
PYTHON = Dialect(
    is_json=False,
    words=MappingProxyType(
        {**_WORDS, "True": "true", "False": "false", "None": "null"}
    ),
)


def read_value(reader: Reader, out: list[str], dialect: Dialect) -> Waits[None]:
    """Takes one value, with white space before it; appends its JSON to `out`.

    Raises:
        NotACallError: it is none.
    """
    return (yield from _Value(reader, out, dialect).read())


def read_text(reader: Reader) -> Waits[str]:
    """Takes a JSON string, and returns what it says."""
    out = list[str]()
    if (yield from reader.peek()) != '"':
        raise NotACallError
    yield from _json_string(reader, out)
    return str(json.loads("".join(out)))


def as_json(text: str) -> str | None:
    """Returns the JSON of a text that is one Python value, None if it is none."""
    reader, out = Reader(), list[str]()
    reader.feed(text.strip() + " ")  # which ends a number
    reader.end()
    try:
        for _ in read_value(reader, out, PYTHON):
            raise AssertionError("all text was there")
    except (NotACallError, TextEndedError):
        return None
    return "".join(out) if not reader.rest.strip() else None


def escape(text: str) -> str:
    """Returns a text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


@final
class _Value:
    """One value on its way from a reader to a list of pieces."""

    def __init__(self, reader: Reader, out: list[str], dialect: Dialect) -> None:
        self._reader = reader
        self._out = out
        self._is_json = dialect.is_json
        self._words = dialect.words
        self._open = list[str]()

    def read(self) -> Waits[None]:
        while True:
            yield from self._space()
            is_whole = yield from self._begin()
            while is_whole and self._open:
                is_whole = yield from self._go_on()
            if is_whole:
                return

    def _begin(self) -> Waits[bool]:
        """Takes a value, or the beginning of one that has values inside."""
        letter = yield from self._reader.peek()
        if letter in _CLOSERS:
            return (yield from self._descend(letter))
        if letter == '"' or (letter == "'" and not self._is_json):
            yield from self._string()
        elif letter in "-0123456789":
            number = yield from self._reader.run("0123456789+-.eE")
            if not _NUMBER.fullmatch(number):
                raise NotACallError
            self._out.append(number)
        else:
            word = yield from self._reader.run(_LETTERS)
            if word not in self._words:
                raise NotACallError
            self._out.append(self._words[word])
        return True

    def _descend(self, opener: str) -> Waits[bool]:
        """Takes the beginning of a list or an object; returns whether it has an end."""
        if not (len(self._open) < _MAX_DEPTH):
            raise NotACallError
        self._write(opener)
        self._open.append(opener)
        yield from self._space()
        if (yield from self._close()):
            return True
        yield from self._key()
        return False

    def _go_on(self) -> Waits[bool]:
        """Takes what follows a value inside; returns whether an end was there."""
        yield from self._space()
        if (yield from self._close()):
            return True
        yield from self._reader.expect(",")
        if not self._is_json:
            yield from self._space()
            if (yield from self._close()):
                return True
        self._out.append("," if self._is_json else ", ")
        yield from self._space()
        yield from self._key()
        return False

    def _close(self) -> Waits[bool]:
        closer = _CLOSERS[self._open[-1]]
        if (yield from self._reader.peek()) != closer:
            return False
        self._write(closer)
        self._open.pop()
        return True

    def _key(self) -> Waits[None]:
        if self._open[-1] != "{":
            return
        if (yield from self._reader.peek()) not in ('"' if self._is_json else "'\""):
            raise NotACallError
        yield from self._string()
        yield from self._space()
        yield from self._reader.expect(":")
        self._out.append(":" if self._is_json else ": ")

    def _string(self) -> Waits[None]:
        read = _json_string if self._is_json else _python_string
        yield from read(self._reader, self._out)

    def _space(self) -> Waits[None]:
        space = yield from self._reader.space()
        if self._is_json and space:
            self._out.append(space)

    def _write(self, letter: str) -> None:
        self._reader.skip(1)
        self._out.append(letter)


def _json_string(reader: Reader, out: list[str]) -> Waits[None]:
    reader.skip(1)
    out.append('"')
    while (letter := (yield from reader.peek())) != '"':
        if letter == "\\":
            out.append((yield from _json_escape(reader)))
        else:
            out.append(_plain(reader, _PLAIN_JSON))
    reader.skip(1)
    out.append('"')


def _json_escape(reader: Reader) -> Waits[str]:
    reader.skip(1)
    letter = yield from reader.peek()
    reader.skip(1)
    if letter == "u":
        return "\\u" + (yield from _hex(reader, 4))
    if letter not in '"\\/bfnrt':
        raise NotACallError
    return "\\" + letter


def _python_string(reader: Reader, out: list[str]) -> Waits[None]:
    quote = yield from reader.peek()
    reader.skip(1)
    out.append('"')
    while (letter := (yield from reader.peek())) != quote:
        if letter == "\\":
            out.append(_escape_code((yield from _python_escape(reader))))
        else:
            out.append(escape(_plain(reader, _PLAIN_PYTHON[quote])))
    reader.skip(1)
    out.append('"')


def _python_escape(reader: Reader) -> Waits[str]:
    """Takes an escape, and returns what it stands for."""
    reader.skip(1)
    letter = yield from reader.peek()
    reader.skip(1)
    if letter not in _SIZES:
        return _PYTHON_ESCAPES.get(letter, "\\" + letter)
    code = int((yield from _hex(reader, _SIZES[letter])), 16)
    if not (code <= sys.maxunicode):
        raise NotACallError
    return chr(code)


def _escape_code(text: str) -> str:
    """Half of a surrogate pair stays an escape; its other half may follow."""
    is_half = len(text) == 1 and "\ud800" <= text <= "\udfff"
    return f"\\u{ord(text):04x}" if is_half else escape(text)


def _plain(reader: Reader, pattern: re.Pattern[str]) -> str:
    """Takes characters that stand for themselves, as many as have come."""
    found = pattern.match(reader.rest)
    if not found or not found.group():
        raise NotACallError
    reader.skip(found.end())
    return found.group()


def _hex(reader: Reader, count: int) -> Waits[str]:
    digits = ""
    while len(digits) < count:
        digits += yield from reader.peek()
        reader.skip(1)
    if not _HEX.fullmatch(digits):
        raise NotACallError
    return digits
