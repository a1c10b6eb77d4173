"""The roll knows who is in the fleet, under which epoch, and who has been silent.

    joined --- all front ends have reached it ---> serving ---> gone, for good

A link's end, or silence for too many beats, is the end of a host or of a front end.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from mell_jax.scheduler.hosts.messages import Host
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, FrontId, RequestId, front_of

PeerId = NewType("PeerId", int)
"""One link to the controller, from its first message to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A device group is the `number`-th one of a host, whatever it is called now."""

    host: str
    number: int


class HostEntry:
    """A host is known by its epoch."""

    __slots__ = (
        "admitted",
        "aside",
        "devices",
        "epoch",
        "is_leaving",
        "is_serving",
        "missed",
        "name",
        "peer",
        "prefill_tokens_per_s",
        "reached",
    )

    def __init__(
        self,
        epoch: Epoch,
        *,
        name: str,
        peer: PeerId,
        devices: tuple[DeviceGroupId, ...],
        admitted: tuple[DeviceGroupId, ...],
    ) -> None:
        self.epoch = epoch
        self.name = name
        self.peer = peer
        self.devices = devices
        self.admitted = admitted  # by their numbers, also those that have failed
        self.aside: set[DeviceGroupId] = set()  # an operator has these
        self.reached: set[FrontId] = set()  # by these front ends
        self.missed: set[FrontId] = set()  # these have no link to it, and said so
        self.prefill_tokens_per_s = math.inf
        self.is_leaving = False  # it takes nothing new
        self.is_serving = False  # its device groups are in the books

    @property
    def told(self) -> Host:
        """Returns the host as front ends and hosts are told of it."""
        return Host(epoch=self.epoch, name=self.name, devices=self.devices)


class FrontEntry:
    """A front end is known by its id."""

    __slots__ = ("front", "peer")

    def __init__(self, front: FrontId, *, peer: PeerId) -> None:
        self.front = front
        self.peer = peer


class Roll:
    """The roll is the controller's.

    Args:
      patience: beats of silence after which somebody is given up.
    """

    def __init__(self, *, patience: int) -> None:
        if not (patience >= 1):
            raise ValueError(f"patience must be >= 1 beat, got {patience}")
        self.hosts: dict[Epoch, HostEntry] = {}
        self.fronts: dict[FrontId, FrontEntry] = {}
        self.version = 0  # grows whenever somebody comes or goes
        self._patience = patience
        self._silent: dict[PeerId, int] = {}  # beats
        self._host_of: dict[DeviceGroupId, HostEntry] = {}
        self._by_peer: dict[PeerId, HostEntry | FrontEntry] = {}

    def heard(self, peer: PeerId) -> None:
        """Somebody has said something."""
        self._silent[peer] = 0

    def beat(self) -> list[PeerId]:
        """Counts a beat; returns who has been silent for too long."""
        for peer in self._silent:
            self._silent[peer] += 1
        return [peer for peer, count in self._silent.items() if count > self._patience]

    def who(self, peer: PeerId) -> HostEntry | FrontEntry | None:
        """Returns who is at the other end of a link, once it has said so."""
        return self._by_peer.get(peer)

    def host_of(self, device: DeviceGroupId) -> HostEntry | None:
        """Returns the host of a device group; None if it is gone."""
        return self._host_of.get(device)

    def seat_of(self, device: DeviceGroupId) -> Seat | None:
        """Returns the place of a device group in its host; None if it is gone."""
        host = self.host_of(device)
        if host is None:
            return None
        return Seat(host=host.name, number=host.admitted.index(device))

    def named(self, name: str) -> list[HostEntry]:
        """Returns the hosts of that name, of which there should be one at most."""
        return [host for host in self.hosts.values() if host.name == name]

    def enter(self, front: FrontId, *, peer: PeerId) -> None:
        """A front end is there."""
        self.version += 1
        entry = FrontEntry(front, peer=peer)
        self.fronts[front] = self._by_peer[peer] = entry

    def admit(
        self,
        epoch: Epoch,
        *,
        name: str,
        peer: PeerId,
        devices: Iterable[DeviceGroupId],
        admitted: Iterable[DeviceGroupId] | None = None,
    ) -> HostEntry:
        """A host is there.

        Args:
          devices: those of its groups that work.
          admitted: all of them by their numbers; None: `devices` are.
        """
        self.version += 1
        working = tuple(devices)
        host = HostEntry(
            epoch,
            name=name,
            peer=peer,
            devices=working,
            admitted=working if admitted is None else tuple(admitted),
        )
        self.hosts[epoch] = self._by_peer[peer] = host
        self._host_of |= dict.fromkeys(host.devices, host)
        return host

    def drop_device(self, host: HostEntry, device: DeviceGroupId) -> None:
        """A device group has failed; its host goes on with the others."""
        host.devices = tuple(other for other in host.devices if other != device)
        host.aside.discard(device)
        del self._host_of[device]

    def reach(self, host: HostEntry, front: FrontId) -> None:
        """A front end has a link to a host."""
        host.missed.discard(front)
        host.reached.add(front)

    def note_reached(self, hosts: Iterable[Epoch], *, front: FrontId) -> None:
        """A front end has links to these, as far as they are in the fleet."""
        for epoch in hosts:
            if epoch in self.hosts:
                self.reach(self.hosts[epoch], front)

    def miss(self, host: HostEntry, front: FrontId) -> None:
        """A front end has no link to a host."""
        host.reached.discard(front)
        host.missed.add(front)

    def is_answered(self, host: HostEntry) -> bool:
        """Returns whether all front ends have said if they have a link to a host."""
        return host.reached | host.missed >= self.fronts.keys()

    def is_cut_off(self, host: HostEntry) -> bool:
        """Returns whether most front ends have no link to a host, which is of no use.

        With fewer the fault may be theirs: the controller still hears the host.
        """
        return 2 * len(host.missed) > len(self.fronts)

    def may_go(self, request: RequestId, device: DeviceGroupId) -> bool:
        """Returns whether a request's front end may have a link to a device's host."""
        host = self._host_of.get(device)
        return host is None or front_of(request) not in host.missed

    def forget(self, peer: PeerId) -> None:
        """A link has ended."""
        self.version += 1
        self._silent.pop(peer, None)
        entry = self._by_peer.pop(peer, None)
        match entry:
            case HostEntry():
                self.remove(entry)
            case FrontEntry() if self.fronts.get(entry.front) is entry:
                del self.fronts[entry.front]
                for host in self.hosts.values():
                    host.reached.discard(entry.front)
                    host.missed.discard(entry.front)

    def remove(self, host: HostEntry) -> None:
        """A host is in the fleet no more; its link may still be there."""
        self.version += 1
        self._by_peer.pop(host.peer, None)
        if self.hosts.pop(host.epoch, None) is not None:
            for device in host.devices:
                del self._host_of[device]

    def told(self) -> tuple[Host, ...]:
        """Returns the hosts as front ends and hosts are told of them."""
        return tuple(host.told for host in self.hosts.values())
