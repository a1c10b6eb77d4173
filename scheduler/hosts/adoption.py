"""A controller that begins gathers reports, and decides which copies count.

    front end: "request 5 follows copy 7 at host 2"     host 2: "copy 7 is here, whole"
                    '----------------- both: it is adopted -----------------'
                    otherwise it waits, and starts again from its tokens

It waits until every host that a front end knows has reported, and every front end of
whose requests hosts hold copies; or for `patience` beats. Whoever knows of nobody may
be the first to report, so that it waits a little in any case.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mell_jax.scheduler.hosts.messages import (
    STRIDE,
    Ask,
    Enter,
    Join,
    Seen,
    StreamReport,
)
from mell_jax.scheduler.hosts.reports import after_front, after_host
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import NO_COPY, CopyId, DeviceGroupId, front_of

Report = TypeVar("Report", Join, Enter)

LEAP = STRIDE << 16
"""From the highest copy id that is reported to the first that is given out: more than a
predecessor may have named to those alone who are gone."""
LEAPS = 1 << 16
"""Each controller leaps so many times, or less often, by its generation: two of which
nobody could report to the second what the first has named do not give out the same."""
LEAST_BEATS = 2
"""From the first report on, for others to find the controller, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """This is what a controller goes on with."""

    hosts: tuple[tuple[Join, PeerId], ...]  # that a predecessor admitted
    strangers: tuple[tuple[Join, PeerId], ...]  # that are new
    fronts: tuple[tuple[Enter, PeerId], ...]
    placed: tuple[StreamReport, ...]
    waiting: tuple[Ask, ...]
    kept: frozenset[CopyId]
    seen: Seen  # of all together


class Adoption:
    """An adoption lasts until it is complete.

    Args:
      patience: beats from the first report on that it waits at most for those who are
        known to be there.
      least_hosts: that are waited for, however long it takes.
      generation: of the controller.
    """

    def __init__(self, *, patience: int, least_hosts: int, generation: int = 0) -> None:
        self._patience = patience
        self._leap = LEAP * (1 + generation % LEAPS)
        self._least_hosts = least_hosts
        self._beats = 0
        self._joins: dict[PeerId, Join] = {}
        self._enters: dict[PeerId, Enter] = {}

    def beat(self) -> None:
        """Counts a beat, if somebody has reported."""
        if self._joins or self._enters:
            self._beats += 1

    def join(self, peer: PeerId, join: Join) -> list[PeerId]:
        """A host has reported; returns its other links: what it said there is void."""
        others = [old for old, said in self._joins.items() if said.name == join.name]
        return self._replace(others, peer, self._joins, join)

    def enter(self, peer: PeerId, enter: Enter) -> list[PeerId]:
        """A front end has reported; returns its other links, as `join` does."""
        fronts = self._enters.items()
        others = [old for old, said in fronts if said.front == enter.front]
        return self._replace(others, peer, self._enters, enter)

    def _replace(
        self,
        old: list[PeerId],
        peer: PeerId,
        reports: dict[PeerId, Report],
        new: Report,
    ) -> list[PeerId]:
        for each in old:
            self.forget(each)
        reports[peer] = new
        return [each for each in old if each != peer]

    def forget(self, peer: PeerId) -> None:
        """Somebody has left again."""
        self._joins.pop(peer, None)
        self._enters.pop(peer, None)

    def hear(self, peer: PeerId, message: Any) -> None:
        """Takes what has changed since somebody has reported.

        What is said over a link that another has replaced does not count.
        """
        if peer in self._joins:
            self._joins[peer] = after_host(self._joins[peer], message)
        elif peer in self._enters:
            self._enters[peer] = after_front(self._enters[peer], message)

    @property
    def is_complete(self) -> bool:
        """Returns whether all have reported, or need not be waited for any longer."""
        if len(self._joins) < self._least_hosts or self._beats < LEAST_BEATS:
            return False
        return self._beats >= self._patience or not self._is_missing

    @property
    def _is_missing(self) -> bool:
        """Returns whether somebody has not reported of whom others know."""
        joins, enters = self._joins.values(), self._enters.values()
        hosts = {join.epoch for join in joins}
        fronts = {enter.front for enter in enters}
        known = {epoch for enter in enters for epoch in enter.hosts}
        holders = {front_of(copy.request) for join in joins for copy in join.copies}
        return not (known <= hosts and holders <= fronts)

    def decide(self) -> Adopted:
        """Returns what there is, once it is complete."""
        hosts = self._known_hosts()
        held = {
            (join.epoch, copy.copy_id): copy
            for join in hosts.values()
            for copy in join.copies
            if copy.is_whole
        }
        streams = {
            stream.ask.request: stream
            for enter in self._enters.values()
            for stream in enter.streams
        }
        placed: list[StreamReport] = []
        waiting: list[Ask] = []
        for stream in streams.values():
            copy = held.get((stream.epoch, stream.copy_id or NO_COPY))
            if copy is None or copy.request != stream.ask.request:
                waiting.append(stream.ask)
            else:
                ask = replace(stream.ask, pages=copy.pages)
                placed.append(replace(stream, ask=ask))
        return Adopted(
            hosts=tuple((join, peer) for peer, join in hosts.items()),
            strangers=tuple(
                (join, peer) for peer, join in self._joins.items() if peer not in hosts
            ),
            fronts=tuple((enter, peer) for peer, enter in self._enters.items()),
            placed=tuple(placed),
            waiting=tuple(waiting),
            kept=frozenset(
                stream.copy_id for stream in placed if stream.copy_id is not None
            ),
            seen=self._seen(),
        )

    def _known_hosts(self) -> dict[PeerId, Join]:
        """Returns the hosts to which front ends have links; others begin anew.

        Device groups are numbered by controllers that may not have known of each
        other, so that two hosts may have the same: one of them begins anew, too.
        """
        linked = {epoch for enter in self._enters.values() for epoch in enter.hosts}
        found: dict[PeerId, Join] = {}
        taken: set[DeviceGroupId] = set()
        for peer, join in self._joins.items():
            devices = {group.device for group in join.groups}
            if join.epoch in linked and not devices & taken:
                found[peer] = join
                taken |= devices
        return found

    def _seen(self) -> Seen:
        """Returns the highest numbers that anybody can have heard of."""
        seen = [join.seen for join in self._joins.values()]
        seen += [enter.seen for enter in self._enters.values()]
        has_predecessor = any(join.epoch is not None for join in self._joins.values())
        highest = max(each.copy_id for each in seen)
        return Seen(
            copy_id=CopyId(highest + self._leap) if has_predecessor else highest,
            device=max(each.device for each in seen),
        )
