"""A stream follows one copy of a request at a time, and takes each token once.

    count 4, follows copy 7          rows of 7 are taken, all others refused
    commit of copy 9 at 6            rows of 7 up to 6; rows of 9 wait until then

Rows of one copy are in order, since links are. What is taken the caller passes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mell_jax.scheduler.hosts.messages import Ask, Row
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A copy is there."""

    copy_id: CopyId
    epoch: Epoch
    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A copy is next, from that token on; its rows wait until then."""

    count: int
    place: Place
    held: list[Row]


class Stream:
    """A stream is a request as its front end knows it."""

    __slots__ = ("_turns", "ask", "count", "place")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.count = ask.known - ask.prompt  # tokens of the answer
        self.place: Place | None = None  # of the copy that it follows
        self._turns: list[_Turn] = []

    @property
    def known(self) -> int:
        """Returns the tokens of prompt and answer."""
        return self.ask.prompt + self.count

    @property
    def latest(self) -> Place | None:
        """Returns the copy that the controller means by the owner."""
        return self._turns[-1].place if self._turns else self.place

    @property
    def awaited(self) -> list[Place | None]:
        """Returns the older copies some of whose tokens are still to come.

        None stands for one of which nothing comes any more.
        """
        if not self._turns:
            return []
        return [self.place, *(turn.place for turn in self._turns[:-1])]

    @property
    def places(self) -> list[Place]:
        """Returns the copies that it takes tokens of, now or when their turn comes."""
        first = [self.place] if self.place is not None else []
        return [*first, *(turn.place for turn in self._turns)]

    def takes(self, copy_id: CopyId, *, epoch: Epoch) -> bool:
        """Returns whether a copy is among `places`."""
        return any(
            (place.copy_id, place.epoch) == (copy_id, epoch) for place in self.places
        )

    def follow(self, place: Place | None) -> None:
        """Takes tokens of this copy alone, from now on."""
        self.place, self._turns = place, []

    def follow_from(self, count: int, place: Place) -> None:
        """Takes tokens of another copy once there are `count` of those before."""
        assert count >= self.count, f"{place} follows at {count}, after {self.count}"
        self._turns.append(_Turn(count=count, place=place, held=[]))

    def take(self, row: Row, *, epoch: Epoch) -> Iterator[Row]:
        """Yields the rows to pass on, in order: parts of this one, or of held ones."""
        if self.place is not None and _is_of(row, self.place, epoch):
            yield from self._cut(row)
        else:
            for turn in self._turns:
                if _is_of(row, turn.place, epoch):
                    turn.held.append(row)
        yield from self.release()

    def release(self) -> Iterator[Row]:
        """Yields what was held of copies whose turn has come."""
        while self._turns and self._turns[0].count == self.count:
            turn = self._turns.pop(0)
            self.place = turn.place
            for row in turn.held:
                yield from self._cut(row)

    def _cut(self, row: Row) -> Iterator[Row]:
        """Yields what is new of a row of the copy that is followed."""
        assert row.start <= self.count, f"{row} leaves a gap after {self.count}"
        is_next = row.start == self.count and (row.tokens or row.is_end)
        if is_next and not self._turns:  # as nearly always
            self.count += len(row.tokens)
            yield row
            return
        tokens = row.tokens[self.count - row.start :]
        if self._turns:  # what comes after is the next copy's
            tokens = tokens[: self._turns[0].count - self.count]
        if tokens or row.is_end:
            start, self.count = self.count, self.count + len(tokens)
            yield replace(row, start=start, tokens=tokens)


def _is_of(row: Row, place: Place, epoch: Epoch) -> bool:
    return row.copy_id == place.copy_id and epoch == place.epoch
