"""Finds the first stop string in a text that comes in pieces.

    stops "END", text "a E" + "N" + "D b":   "a " | "" | "", matched "END"

The match is the stop string that is complete first (of several complete at the same
character, the longest), so a stream stops as soon as any stop string is there.  Only
what may still become a stop string is held back: less than the longest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """The text is final; the stop string ends it, if one was found."""

    text: str
    matched: str | None


@final
class StopMatcher:
    """The matcher searches one stream; a few steps per character and stop string."""

    def __init__(self, stops: Sequence[str], *, include_stop: bool) -> None:
        """A search at the beginning of a text.

        Args:
            stops: the stop strings.
            include_stop: whether the text ends after the stop string, not before it.

        Raises:
            ValueError: a stop string is empty.
        """
        if not all(stops):
            raise ValueError(f"a stop string must not be empty, got {list(stops)}")
        self._stops = sorted(set(stops), key=lambda stop: (-len(stop), stop))
        self._borders = [_find_borders(stop) for stop in self._stops]
        self._first_letters = frozenset(stop[0] for stop in self._stops)
        self._include_stop = include_stop
        # For each stop string: how much of it the text so far ends with.
        self._lengths = [0] * len(self._stops)
        self._held = ""
        self._is_matched = False

    def push(self, text: str, *, is_armed: bool = True) -> Emit:
        """Returns the text that is final now; nothing may be pushed after a match.

        Args:
            text: the next piece.
            is_armed: whether a stop string may be completed by this piece; one that
                begins here may be completed by a later piece either way.
        """
        assert not self._is_matched, "pushed text after a match"
        if not self._held and self._first_letters.isdisjoint(text):
            return Emit(text=text, matched=None)
        start = len(self._held)
        self._held += text
        for end, letter in enumerate(text, start=start + 1):
            stop = self._advance(letter)
            if stop is not None and is_armed:
                self._is_matched = True
                cut = end if self._include_stop else end - len(stop)
                return Emit(text=self._held[:cut], matched=stop)
        cut = len(self._held) - max(self._lengths)
        emitted, self._held = self._held[:cut], self._held[cut:]
        return Emit(text=emitted, matched=None)

    def flush(self) -> Emit:
        """Returns what was held back, at the end of the text."""
        emitted = "" if self._is_matched else self._held
        self._held = ""
        self._lengths = [0] * len(self._stops)
        return Emit(text=emitted, matched=None)

    def _advance(self, letter: str) -> str | None:
        """Takes in one letter (Knuth, Morris and Pratt's search, once per stop string).

        Returns:
            The longest stop string that it completes.
        """
        completed = None
        for k, (stop, borders) in enumerate(
            zip(self._stops, self._borders, strict=True)
        ):
            length = self._lengths[k]
            while length and stop[length] != letter:
                length = borders[length - 1]
            if stop[length] == letter:
                length += 1
            if length == len(stop):
                completed = completed or stop
                length = borders[length - 1]
            self._lengths[k] = length
        return completed


def _find_borders(stop: str) -> tuple[int, ...]:
    """For every prefix, the longest shorter prefix it ends with: "abab" -> 0 0 1 2."""
    borders = [0]
    for letter in stop[1:]:
        length = borders[-1]
        while length and stop[length] != letter:
            length = borders[length - 1]
        borders.append(length + (stop[length] == letter))
    return tuple(borders)
