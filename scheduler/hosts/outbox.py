"""The outbox gathers what the controller sends, in order, until its driver takes it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.roll import PeerId, Roll
from mell_jax.scheduler.ids import DeviceGroupId, RequestId, front_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this over a link."""

    to: PeerId
    message: words.ToHost | words.ToFront


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """End a link: whoever is there is not in the fleet.

    `reason` says what was wrong with its last word, if that is why.
    """

    peer: PeerId
    reason: str = ""


Effect = Send | HangUp


class Outbox:
    """The outbox finds the link to whom a message is for; who is gone gets none.

    Args:
      roll: of who is there; read only.
    """

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self._effects: list[Effect] = []

    def send(self, peer: PeerId, message: words.ToHost | words.ToFront) -> None:
        """Sends over a link."""
        self._effects.append(Send(to=peer, message=message))

    def send_device(self, device: DeviceGroupId, message: words.ToHost) -> None:
        """Sends to the host of a device group."""
        host = self._roll.host_of(device)
        if host is not None:
            self.send(host.peer, message)

    def send_front(self, request: RequestId, message: words.ToFront) -> None:
        """Sends to the front end that has the stream of a request."""
        front = self._roll.fronts.get(front_of(request))
        if front is not None:
            self.send(front.peer, message)

    def send_all(
        self,
        message: words.Hosts | words.HostsChanged | words.Beat,
        *,
        but: Collection[PeerId] = (),
    ) -> None:
        """Sends to every front end and every host, but to those."""
        peers = [front.peer for front in self._roll.fronts.values()]
        peers += [host.peer for host in self._roll.hosts.values()]
        for peer in peers:
            if peer not in but:
                self.send(peer, message)

    def hang_up(self, peer: PeerId, *, reason: str = "") -> None:
        """Ends a link."""
        self._effects.append(HangUp(peer=peer, reason=reason))

    def take(self) -> Sequence[Effect]:
        """Returns what there is to do, and begins anew."""
        taken, self._effects = self._effects, []
        return taken
