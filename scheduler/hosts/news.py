"""The news of a fleet are who has come and gone, as a controller's log tells them.

    roll, before and after something was heard  ->  `Watch.look`  ->  news

It only looks: what becomes of hosts the coordinator has decided by then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.outbox import Effect, Send
from mell_jax.scheduler.hosts.roll import HostEntry, PeerId
from mell_jax.scheduler.ids import Epoch, FrontId


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdmitted:
    """A host is in the fleet; it may have been so under another controller."""

    name: str
    epoch: Epoch
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLost:
    """A host is gone, and was not to go."""

    name: str
    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFenced:
    """A host was given up that may still be there: nothing that it says counts."""

    name: str
    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLeft:
    """A host is gone as it said that it would."""

    name: str
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontGone:
    """A front end is gone, and its requests with it."""

    front: FrontId


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The controller decides from now on; so much there was before."""

    hosts: int
    fronts: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """Another policy decides from now on."""

    policy: str
    before: str


News = (
    HostAdmitted
    | HostLost
    | HostFenced
    | HostLeft
    | FrontGone
    | Adopted
    | PolicyChanged
)


@final
class Watch:
    """The watch is one coordinator's, from its beginning."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._version = coordinator.roll.version
        self._was_adopting = coordinator.is_adopting
        self._hosts: dict[Epoch, HostEntry] = dict(coordinator.roll.hosts)
        self._fronts: set[FrontId] = set(coordinator.roll.fronts)
        self._policy = coordinator.policy

    def look(self, effects: Sequence[Effect], *, cause: str) -> Sequence[News]:
        """Returns what has changed since the last look.

        Args:
          effects: that came out of what was heard.
          cause: why a host or a front end would be gone by it.
        """
        roll, policy = self._coordinator.roll, self._coordinator.policy
        is_adopting = self._coordinator.is_adopting
        seen = (self._version, self._was_adopting, self._policy)
        if seen == (roll.version, is_adopting, policy):
            return ()
        news = list(self._changes(_fences(effects), cause))
        if policy != self._policy:
            news.append(PolicyChanged(policy=policy, before=self._policy))
            self._policy = policy
        if self._was_adopting and not is_adopting:
            requests = len(self._coordinator.requests)
            hosts, fronts = len(roll.hosts), len(roll.fronts)
            news.append(Adopted(hosts=hosts, fronts=fronts, requests=requests))
        self._version, self._was_adopting = roll.version, is_adopting
        self._hosts, self._fronts = dict(roll.hosts), set(roll.fronts)
        return news

    def _changes(self, fences: dict[PeerId, str], cause: str) -> Iterator[News]:
        roll = self._coordinator.roll
        for epoch, host in self._hosts.items():
            if epoch in roll.hosts:
                continue
            if host.is_leaving:  # whoever hears first that its links end
                yield HostLeft(name=host.name, epoch=epoch)
            elif host.peer in fences:
                reason = fences[host.peer]
                yield HostFenced(name=host.name, epoch=epoch, reason=reason)
            else:
                yield HostLost(name=host.name, epoch=epoch, reason=cause)
        for epoch, host in roll.hosts.items():
            if epoch not in self._hosts:
                groups = len(host.devices)
                yield HostAdmitted(name=host.name, epoch=epoch, groups=groups)
        for front in sorted(self._fronts - roll.fronts.keys()):
            yield FrontGone(front=front)


def _fences(effects: Sequence[Effect]) -> dict[PeerId, str]:
    """Returns the reasons of those that are told to be fenced, by their links."""
    return {
        effect.to: effect.message.reason
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, words.Fenced)
    }
