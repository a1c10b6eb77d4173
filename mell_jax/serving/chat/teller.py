"""A teller puts the steps of an answer into the words of its protocol.

A teller is a state machine without time or I/O: the same steps make the same events
and the same whole object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from mell_jax.serving.chat.events import Begun, Ended, Event, Step
from mell_jax.serving.chat.wish import Json
from mell_jax.serving.http.errors import Failure
from mell_jax.serving.http.sse import event_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A client is told this by one event of a stream."""

    name: str
    data: Json


class Teller(Protocol):
    """A teller tells one answer; it is begun, then told events, then ended."""

    def begin(self, begun: Begun) -> Sequence[Told]:
        """Returns what a stream begins with."""
        ...

    def tell(self, event: Event) -> Sequence[Told]:
        """Returns what a stream tells of an event."""
        ...

    def end(self, ended: Ended) -> Sequence[Told]:
        """Returns what a stream ends with."""
        ...

    def fail(self, failure: Failure) -> Sequence[Told]:
        """Returns the end of a stream that failed, perhaps before its beginning."""
        ...

    def whole(self) -> Json:
        """Returns an answer that has ended as one object."""
        ...


def told_by(teller: Teller, step: Step) -> Sequence[Told]:
    """Returns what a teller tells of a step."""
    match step:
        case Begun():
            return teller.begin(step)
        case Ended():
            return teller.end(step)
        case _:
            return teller.tell(step)


def encoded(told: Sequence[Told]) -> bytes:
    """Returns events as they are sent."""
    return b"".join(
        event_bytes(msgspec.json.encode(each.data), name=each.name) for each in told
    )
