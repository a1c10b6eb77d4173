"""A controller that begins gathers reports, and decides which copies count.

    front end: "request 5 follows copy 7 at host 2"     host 2: "copy 7 is here, whole"
                    '----------------- both: it is adopted -----------------'
                    otherwise it waits, and starts again from its tokens

It waits until every host that a front end knows has reported, and every front end of
whose requests hosts hold copies; or for `patience` beats.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from mell_jax.scheduler.hosts.messages import (
    Ask,
    Enter,
    FromFront,
    FromHost,
    Join,
    Over,
    Seen,
    StreamReport,
)
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import NO_COPY, CopyId, DeviceGroupId, RequestId, front_of

Report = TypeVar("Report", Join, Enter)


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
      patience: beats that it waits at most for those who are known to be there.
      least_hosts: that are waited for, however long it takes.
    """

    def __init__(self, *, patience: int, least_hosts: int) -> None:
        self._patience = patience
        self._least_hosts = least_hosts
        self._beats = 0
        self._joins: dict[PeerId, Join] = {}
        self._enters: dict[PeerId, Enter] = {}
        self._asks: dict[RequestId, Ask] = {}  # since
        self._over: set[RequestId] = set()

    def beat(self) -> None:
        """Counts a beat."""
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
        enter = self._enters.pop(peer, None)
        if enter is not None:
            for request in [r for r in self._asks if front_of(r) == enter.front]:
                del self._asks[request]

    def hear(self, peer: PeerId, message: FromHost | FromFront) -> None:
        """Takes what a front end says that has reported: what came of requests since.

        All else is of the past, or is said again to whoever is adopted.
        """
        if peer not in self._enters:
            return
        match message:
            case Ask():
                self._asks[message.request] = message
            case Over():
                self._over.add(message.request)
                self._asks.pop(message.request, None)
            case _:
                pass

    @property
    def is_complete(self) -> bool:
        """Returns whether all have reported, or need not be waited for any longer."""
        if len(self._joins) < self._least_hosts:
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
            if stream.ask.request not in self._over
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
        waiting += [ask for ask in self._asks.values() if ask.request not in streams]
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
        """Returns the highest numbers that anybody has heard of."""
        seen = [join.seen for join in self._joins.values()]
        seen += [enter.seen for enter in self._enters.values()]
        return Seen(
            copy_id=max(each.copy_id for each in seen),
            device=max(each.device for each in seen),
        )
