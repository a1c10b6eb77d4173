"""Protocols with a fault; the simulation must find each of them out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mell_jax.scheduler.hosts import desk as host_side
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.adoption import Adopted, Adoption
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.desk import Desk
from mell_jax.scheduler.hosts.relay import Relay
from mell_jax.scheduler.hosts.roll import FrontEntry, HostEntry, PeerId
from mell_jax.scheduler.hosts.stream import Place, Stream
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch
from mell_jax.scheduler.migration import messages
from tests.scheduler.hosts.programs import Parts


class ResumingDesk(Desk):
    """Has rows that were stopped for a move go on when the controller is cut."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._begun: dict[CopyId, words.Order] = {}

    def _order(self, message: words.Order) -> None:
        if isinstance(message.message, messages.Begin):
            self._begun[message.message.copy_id] = message
        super()._order(message)

    def cut_controller(self) -> Sequence[host_side.Effect]:
        todo = list(super().cut_controller())
        for order in self._begun.values():
            begin = order.message
            assert isinstance(begin, messages.Begin)
            resume = messages.Resume(
                request=begin.request,
                copy_id=begin.copy_id,
                to_copy_id=begin.to_copy_id,
            )
            todo.append(host_side.Deliver(device=order.device, message=resume))
        self._begun.clear()
        return todo


class FreeingDesk(Desk):
    """Frees all copies when a new controller says which to keep."""

    def _retain(self, message: words.Retain) -> None:
        super()._retain(replace(message, copies=frozenset()))


class HoardingDesk(Desk):
    """Keeps all copies when a new controller says which to keep."""

    def _retain(self, message: words.Retain) -> None:
        super()._retain(replace(message, copies=frozenset(self.held_pages)))


class GenerousDesk(Desk):
    """Grants pages that it does not have."""

    def _free(self, device: DeviceGroupId) -> int:
        model = self.serves[device]
        return self._capacity_pages[model] if model is not None else 0


class TimelessDesk(Desk):
    """Takes openings for the time before its group served what it serves now."""

    def _open(self, opening: words.Opening) -> None:
        if opening.device in self.serves and opening.since is not None:
            self._begin(opening)
        else:
            super()._open(opening)


class GullibleRelay(Relay):
    """Takes tokens of a request whichever of its copies they come from."""

    def _take(self, epoch: Epoch, row: words.Row) -> None:
        stream = self.streams.get(row.request)
        if stream is not None and stream.place is not None:
            row, epoch = replace(row, copy_id=stream.place.copy_id), stream.place.epoch
        super()._take(epoch, row)


class HastyRelay(Relay):
    """Follows the copy of a commit at once, whatever of the one before is missing."""

    def _follow_from(
        self, stream: Stream, commit: messages.Commit, place: Place
    ) -> None:
        stream.follow(place)


class HopefulRelay(Relay):
    """Waits for tokens of a copy whose host is gone."""

    def _break(self, stream: Stream) -> None:
        pass


class OutdatedRelay(Relay):
    """Passes on the tokens that a request began with, not those that it has."""

    def _ask_now(self, stream: Stream) -> words.Ask:
        return stream.ask

    def _pass_on(self, order: words.Relayed) -> None:
        stream = self.streams.get(order.message.request)
        if stream is not None and isinstance(order.message, messages.Start):
            count, stream.count = stream.count, 0
            super()._pass_on(order)
            stream.count = count
        else:
            super()._pass_on(order)


class ForgetfulAdoption(Adoption):
    """Gives numbers of copies and devices out again that a predecessor has given."""

    def decide(self) -> Adopted:
        return replace(super().decide(), seen=words.NOTHING_SEEN)


class InattentiveAdoption(Adoption):
    """Decides by what was reported, whatever has changed since."""

    def hear(self, peer: PeerId, message: Any) -> None:
        pass


def adopting_by(adoption: type[Adoption]) -> type[Coordinator]:
    """Returns a coordinator that decides by this adoption what there is."""

    class Adopting(Coordinator):
        def __init__(self, *, patience: int, least_hosts: int, **kwargs: Any) -> None:
            super().__init__(patience=patience, least_hosts=least_hosts, **kwargs)
            self._adoption = adoption(patience=patience, least_hosts=least_hosts)

    return Adopting


class RepeatingCoordinator(Coordinator):
    """Gives epochs out again that a predecessor has given."""

    def __init__(self, *, generation: int, **kwargs: Any) -> None:
        super().__init__(generation=0, **kwargs)


class DiscreetCoordinator(Coordinator):
    """Gives a host up without a word to it."""

    def _give_up(self, host: HostEntry) -> None:
        self._lose_host(host)


class ForgivingCoordinator(Coordinator):
    """Goes on with a host that a front end has lost its link to."""

    def _unreachable(self, front: FrontEntry, message: words.Unreachable) -> None:
        pass


class TrustingCoordinator(Coordinator):
    """Has requests go to hosts that their front ends have no link to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.roll.miss = self.roll.reach  # type: ignore[method-assign]


class DeafCoordinator(Coordinator):
    """Lets moves go on whose ends have lost each other."""

    def _peer_cut(self, host: HostEntry, message: words.PeerCut) -> None:
        pass


class OverwritingAdoption(Adoption):
    """Uses what an operator has set aside under its predecessor."""

    def decide(self) -> Adopted:
        adopted = super().decide()
        hosts = tuple((replace(join, aside=()), peer) for join, peer in adopted.hosts)
        return replace(adopted, hosts=hosts)


BROKEN = {
    "a source resumes on silence": Parts(desk=ResumingDesk),
    "copy ids are forgotten": Parts(coordinator=adopting_by(ForgetfulAdoption)),
    "epochs are forgotten": Parts(coordinator=RepeatingCoordinator),
    "the fence is not awaited by rows of older copies": Parts(relay=GullibleRelay),
    "the fence is not awaited by rows of the next copy": Parts(relay=HastyRelay),
    "a lost tail is waited for": Parts(relay=HopefulRelay),
    "a start with old tokens": Parts(relay=OutdatedRelay),
    "the owner's copy is freed": Parts(desk=FreeingDesk),
    "all copies are kept": Parts(desk=HoardingDesk),
    "a host is not told that it was fenced": Parts(coordinator=DiscreetCoordinator),
    "grants beyond its pages": Parts(desk=GenerousDesk),
    "what changes after a report": Parts(coordinator=adopting_by(InattentiveAdoption)),
    "openings for an earlier life": Parts(desk=TimelessDesk),
    "links that are lost do not count": Parts(coordinator=ForgivingCoordinator),
    "requests go where there is no link": Parts(coordinator=TrustingCoordinator),
    "moves between hosts that lost each other": Parts(coordinator=DeafCoordinator),
}
"""Each with what is wrong."""
