"""Tells of the calls of one answer: their numbers, names and arguments."""

from collections.abc import Mapping
from typing import final

from mell_jax.text.answers.events import CallArgued, CallBegan, CallDropped, Event, Said
from mell_jax.text.answers.reader import NotACallError, Reader, Steps, Waits
from mell_jax.text.answers.tools import Tool


@final
class Calls:
    """The calls share a reader; one at a time is open.

    Attributes:
        reader: of the answer's text.
        out: JSON of the open call's arguments that nobody was told of.
    """

    def __init__(self, reader: Reader, tools: Mapping[str, Tool]) -> None:
        self.reader = reader
        self.out = list[str]()
        self._tools = tools
        self._index = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Returns whether a call has begun and not ended."""
        return self._is_open

    @property
    def num_begun(self) -> int:
        """Returns how many calls have begun, dropped ones too."""
        return self._index + self._is_open

    def find(self, name: str) -> Tool:
        """Returns a tool.

        Raises:
            NotACallError: none is called that.
        """
        if name not in self._tools:
            raise NotACallError
        return self._tools[name]

    def open(self, name: str) -> CallBegan:
        """Begins a call of a tool that there is."""
        assert not self._is_open, "a call is open"
        self.out.clear()
        self._is_open = True
        return CallBegan(self._index, self.find(name).name)

    def flush(self) -> tuple[Event, ...]:
        """Tells of arguments that nobody was told of."""
        piece = "".join(self.out)
        self.out.clear()
        return (CallArgued(self._index, piece),) if piece else ()

    def stream(self, waits: Waits[None]) -> Steps[None]:
        """Runs what appends to `out`; tells of that when it waits and ends."""
        for _ in waits:
            yield from self.flush()
            yield None
        yield from self.flush()

    def close(self) -> None:
        """Ends a call: what follows cannot take it back."""
        assert self._is_open and not self.out, "a call is not whole"
        self._end()
        self.reader.forget()

    def drop(self) -> tuple[Event, ...]:
        """Gives text that was taken back, of an open call or of none."""
        raw = self.reader.raw
        self.reader.forget()
        if not self._is_open:
            return (Said(raw),) if raw else ()
        told = self.flush()
        index = self._index
        self._end()
        return (*told, CallDropped(index, raw))

    def cut_off(self) -> tuple[Event, ...]:
        """Ends an open call, as it is, with the answer."""
        told = self.flush()
        self._end()
        return told

    def _end(self) -> None:
        self._is_open = False
        self._index += 1
