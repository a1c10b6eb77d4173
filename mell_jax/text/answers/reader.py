"""A reader hands out text that comes in pieces; who reads it waits by `yield from`.

    def is_list(reader):                              # a coroutine of a format
        yield from reader.space()
        return (yield from reader.take("["))          # waits until it is known

What a coroutine does depends on the text alone, not on how it is cut into pieces.
"""

import re
from collections.abc import Generator, Sequence
from typing import TypeVar, final

from mell_jax.text.answers.events import Event

Result = TypeVar("Result")
Waits = Generator[None, None, Result]
"""It yields when it needs more text, and returns a result."""
Steps = Generator[Event | None, None, Result]
"""It yields events as well."""
SPACE = " \t\r\n"


class NotACallError(Exception):
    """The text is no call after all; it never leaves this package."""


class TextEndedError(Exception):
    """There is no more text; it never leaves this package."""


@final
class Reader:
    """A reader holds text that has come and was not taken, and what was lately."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._raw = list[str]()
        self._is_ended = False

    def feed(self, text: str) -> None:
        """Adds text."""
        assert not self._is_ended, "text came after its end"
        self._raw.append(self._text[: self._at])
        self._text, self._at = self._text[self._at :] + text, 0

    def end(self) -> None:
        """Takes note that all text has come."""
        self._is_ended = True

    @property
    def is_ended(self) -> bool:
        """Returns whether all text has come."""
        return self._is_ended

    @property
    def rest(self) -> str:
        """Returns text that has come and was not taken."""
        return self._text[self._at :]

    @property
    def raw(self) -> str:
        """Returns text that was taken since `forget`."""
        return "".join((*self._raw, self._text[: self._at]))

    def forget(self) -> None:
        """Forgets text that was taken."""
        self._raw.clear()
        self._text, self._at = self._text[self._at :], 0

    def rewind(self, length: int) -> None:
        """Gives back all but the first characters of what was taken since `forget`."""
        text = self.raw + self.rest
        self._raw = [text[:length]]
        self._text, self._at = text[length:], 0

    def skip(self, count: int) -> None:
        """Takes characters that have come."""
        self._at += count
        assert self._at <= len(self._text), (self._at, self._text)

    def peek(self) -> Waits[str]:
        """Returns the next character, which stays.

        Raises:
            TextEndedError: there is none.
        """
        while self._at == len(self._text):
            yield from self._wait()
        return self._text[self._at]

    def take(self, literal: str) -> Waits[bool]:
        """Returns whether a text comes next, and takes it if so.

        Raises:
            TextEndedError: its beginning came and then the end.
        """
        while True:
            rest = self._text[self._at : self._at + len(literal)]
            if rest == literal:
                self._at += len(literal)
                return True
            if not literal.startswith(rest):
                return False
            yield from self._wait()

    def expect(self, literal: str) -> Waits[None]:
        """Takes a text.

        Raises:
            NotACallError: another one comes.
        """
        if not (yield from self.take(literal)):
            raise NotACallError

    def space(self) -> Waits[str]:
        """Takes white space, if any, and returns it."""
        return (yield from self.run(SPACE))

    def run(self, letters: str) -> Waits[str]:
        """Takes characters as long as they are of a kind, and returns them."""
        taken = []
        while (letter := (yield from self.peek())) in letters:
            self._at += 1
            taken.append(letter)
        return "".join(taken)

    def until(self, marks: "Marks") -> Waits[str]:
        """Returns the text up to a mark, which is taken, too."""
        pieces = list[str]()
        for piece in self.pieces_until(marks):
            if piece is None:
                yield
            else:
                pieces.append(piece)
        return "".join(pieces)

    def pieces_until(self, marks: "Marks") -> Generator[str | None, None, None]:
        """Yields the text up to a mark as it comes; takes the mark, too."""
        while True:
            rest = self.rest
            found = marks.find(rest)
            if found is not None:
                yield rest[: found.start()]
                self._at += found.end()
                return
            free = len(rest) - marks.num_held(rest)
            self._at += free
            yield rest[:free]
            yield from self._wait()

    def _wait(self) -> Waits[None]:
        if self._is_ended:
            raise TextEndedError
        yield


@final
class Marks:
    """Marks are texts that are looked for; the one that begins first is found.

    One may be inside another only if it is at its end.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._pattern = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._longest = max(map(len, marks), default=0)

    def find(self, text: str) -> re.Match[str] | None:
        """Returns where the first mark is."""
        return self._pattern.search(text)

    def num_held(self, text: str) -> int:
        """Returns how many of the last characters may be the beginning of a mark."""
        for count in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-count:]
            if any(mark.startswith(end) for mark in self._marks):
                return count
        return 0


class StepParser:
    """A parser of one answer takes steps as far as its text lets it.

    Args:
        reader: gives it the text.
        steps: its own, of events; None where more text is needed.
    """

    def __init__(self, reader: Reader, steps: Steps[None]) -> None:
        self._reader = reader
        self._steps = steps

    def push(self, text: str) -> tuple[Event, ...]:
        """Returns what is known by this text and was not before."""
        self._reader.feed(text)
        return self._run()

    def finish(self) -> tuple[Event, ...]:
        """Returns what was held back, at the end of the answer."""
        self._reader.end()
        return self._run()

    def _run(self) -> tuple[Event, ...]:
        events = list[Event]()
        for event in self._steps:
            if event is None:
                break
            events.append(event)
        return tuple(events)
