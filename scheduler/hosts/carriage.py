"""Moves between hosts wait here until their target is open and links have room.

A link is the way between two device groups, as fast as the latest pages that went over
it; one over which none have gone yet is taken to be as fast as anybody likes.
"""

import math
from collections.abc import Iterator
from typing import TypeVar

from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.transfer import Capacities, LinkId, Mode, MoveDemand

Key = TypeVar("Key")

SHARE = 0.3
"""Of the latest measurement in what is known of a link."""


class _Known(dict[Key, float]):
    """What is known of links or devices; as much as anybody likes of all others."""

    def __missing__(self, key: Key) -> float:
        return math.inf


class Carriage:
    """The carriage has the moves that were asked for and have not begun.

    Args:
      ledger: of the machine that asks for them; read only.
      epoch_s: between two calls of `renew`.
    """

    def __init__(self, ledger: Ledger, *, epoch_s: float) -> None:
        self._ledger = ledger
        self._epoch_s = epoch_s
        self._open: set[DeviceGroupId] = set()
        self._early: dict[DeviceGroupId, list[plan.Move]] = {}
        self._link_bytes = _Known[LinkId]()
        self._measured: dict[DeviceGroupId, set[LinkId]] = {}  # by either end
        self._prefill_tokens = _Known[DeviceGroupId]()  # both in an epoch
        self.deferred = 0  # moves put off to the next epoch
        self.violations = 0  # urgent moves beyond what a link or a target has
        self._queue = MoveQueue(
            Capacities(link_bytes=self._link_bytes, prefill_tokens=self._prefill_tokens)
        )

    @property
    def is_asked(self) -> bool:
        """Returns whether a move waits for `begin`."""
        return self._queue.is_asked

    def add(self, device: DeviceGroupId, *, prefill_tokens_per_s: float) -> None:
        """A device is in the fleet, and can prefill so much for moves."""
        self._prefill_tokens[device] = prefill_tokens_per_s * self._epoch_s

    def open(self, device: DeviceGroupId) -> None:
        """A device may be the target of moves from now on."""
        self._open.add(device)
        for move in self._early.pop(device, ()):
            self.ask(move)

    def close(self, device: DeviceGroupId) -> None:
        """No instance is there any more; moves to it have ended."""
        self._open.discard(device)
        self._early.pop(device, None)

    def drop(self, device: DeviceGroupId) -> None:
        """A device has left the fleet: its id never comes again."""
        self.close(device)
        self._prefill_tokens.pop(device, None)
        for link in self._measured.pop(device, ()):
            self._link_bytes.pop(link, None)  # the other end may have dropped it

    def ask(self, move: plan.Move) -> None:
        """Files a move for the next `begin`, or until its target is open."""
        if move.target in self._open:
            self._queue.ask(move)
        else:
            self._early.setdefault(move.target, []).append(move)

    def renew(self) -> None:
        """An epoch ends: links have room again."""
        self._queue.renew()

    def measure(self, measured: LinkMeasured) -> None:
        """Learns how fast a link is."""
        if not (measured.seconds > 0):
            return
        link = _link(measured.source, measured.device)
        latest = measured.nbytes / measured.seconds * self._epoch_s
        known = self._link_bytes[link]
        is_first = known == math.inf
        self._link_bytes[link] = (
            latest if is_first else known + SHARE * (latest - known)
        )
        for end in (measured.source, measured.device):
            self._measured.setdefault(end, set()).add(link)

    def speeds(self) -> Iterator[tuple[DeviceGroupId, DeviceGroupId, float]]:
        """Yields the bytes per second of links that were measured."""
        for link, nbytes in self._link_bytes.items():
            if nbytes < math.inf:
                source, target = map(int, link.split("-"))
                yield (
                    DeviceGroupId(source),
                    DeviceGroupId(target),
                    nbytes / self._epoch_s,
                )

    def is_open(self, device: DeviceGroupId) -> bool:
        """Returns whether an instance there is ready."""
        return device in self._open

    def begin(self) -> Iterator[tuple[plan.Move, Mode]]:
        """Yields the moves that begin now, and how each goes."""
        division = self._queue.divide(self._demand_of)
        self.deferred += len(division.deferred)
        self.violations += division.violations
        for demand, mode in division.begun:
            yield demand.move, mode

    def _demand_of(self, move: plan.Move) -> MoveDemand | None:
        ledger = self._ledger
        if move.move not in ledger.moves:
            return None
        request = ledger.requests[move.request]
        spec = ledger.spec(request.model)
        tokens = max(request.pages * spec.page_tokens, 1)
        return MoveDemand(
            move=move,
            links=(_link(move.source, move.target),),
            tokens=tokens,
            bytes_per_token=request.pages * spec.page_bytes / tokens,
        )


def _link(source: DeviceGroupId, target: DeviceGroupId) -> LinkId:
    return LinkId(f"{source}-{target}")
