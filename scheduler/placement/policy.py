"""A placement policy is a set of hooks that change a draft.

    machine                       policy
    a request arrives       ->    arrive: shift it to an instance, or leave it waiting
    an instance is full     ->    overflow: shift others away until `lack` are free
    an epoch ends           ->    epoch: consolidate

A policy reads `draft.ledger` and acts by `draft.shift`, `activate` and `park` alone;
it may keep notes of its own, but no clock and no randomness. Everything else (capacity,
reservations, queues, stalls, preemption as the last resort) is the machine's.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft

MAX_LOOK_S = 1e6
"""A longer look ahead is none: by then every request of today is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """The config has the knobs of all policies; each reads its own."""

    headroom: float = 0.0  # fraction of an instance that arrivals leave free
    look_s: float | None = None  # growth look-ahead; None: the policy's own
    epoch_s: float = 1.0
    move_price_s: float = 0.6  # device seconds that moving a full instance is worth
    place_wait_s: float = 0.0  # an arrival may wait before an instance is opened for it
    reserve: int = 0  # devices that may be lost at once: their requests fit elsewhere
    move_cap: int = 10  # moves per operation that `mell` promises
    load_weight: float = 1.0  # of idle memory in `mell`'s priority
    near_weight: float = 0.1  # of being on the same host in `mell`'s priority
    devices_per_host: int = 8  # consecutive ids
    link_bytes_per_s: float = math.inf  # that consolidation may use, per link
    prefill_tokens_per_s: float = math.inf  # the same, per instance

    def __post_init__(self) -> None:
        if not (0 <= self.headroom < 1):
            raise ValueError(f"headroom must be in [0, 1), got {self.headroom}")
        if not (self.look_s is None or 0 <= self.look_s <= MAX_LOOK_S):
            raise ValueError(
                f"look_s must be from 0 to {MAX_LOOK_S:.0e}, got {self.look_s}"
            )
        for name in ("epoch_s", "link_bytes_per_s", "prefill_tokens_per_s"):
            if not (getattr(self, name) > 0):
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not (0 < self.move_price_s < math.inf):
            raise ValueError(
                f"move_price_s must be > 0 and finite, got {self.move_price_s}"
            )
        for name in ("place_wait_s", "load_weight", "near_weight"):
            if not (0 <= getattr(self, name) < math.inf):
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name, least in (("move_cap", 1), ("devices_per_host", 1), ("reserve", 0)):
            if not (getattr(self, name) >= least):
                raise ValueError(
                    f"{name} must be >= {least}, got {getattr(self, name)}"
                )


class Policy(Protocol):
    """A policy has hooks, each given the draft of an event; see the module above.

    `look_s` changes at epochs only: the ledger charges every row of an instance so
    many seconds of growth when it files the instance under its projected room, which is
    what `best_fit`, `worst_fit`, `fullest_first` and `emptiest_first` go by. 0 files
    by plain free pages.
    """

    @property
    def look_s(self) -> float: ...

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        """Gives a waiting request a place, or leaves it where it is to let it wait.

        Called for new requests, for preempted ones, and again for the head of the queue
        whenever something was freed.
        """

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        """A request has grown from `before` pages and fits; called very often."""

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        """`lack` more pages are needed on an instance so that its requests can grow.

        Shift requests out of `instance.requests`. What is still lacking afterwards the
        machine frees by preempting the youngest.
        """

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        """A request of `pages` finished there; called also when rows remain."""

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        """An instance holds nothing any more; `draft.park` it now or at an epoch."""

    def epoch(self, draft: Draft) -> None:
        """An epoch has ended at `draft.ledger.now_s`."""
