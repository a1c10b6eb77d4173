"""A move copies the KV cache, or sends tokens that are prefilled again.

    mode      every link on the way          prefill of the target
    KV        the KV bytes                   one token
    TOKENS    four bytes a token             all tokens
              (what the target has cached of the prefix is never charged)

Links and targets are shared, so all moves of an epoch are divided in one pass: urgent
moves first, then those that free most per byte. Each takes the mode that leaves its
scarcest resource better off; what fits in neither waits for the next epoch, unless it
is urgent: then the cheaper mode is overdrawn, counted as a violation, and paid for by
the epochs that follow. Capacities are profiled once and are inputs here. The two modes
are MELL's adaptive migration (Liu et al., INFOCOM 2025, arXiv 2501.06709).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NewType, TypeVar

from mell_jax.scheduler.ids import DeviceGroupId, MoveId
from mell_jax.scheduler.placement import plan

LinkId = NewType("LinkId", str)
TOKEN_BYTES = 4

ResourceT = TypeVar("ResourceT", LinkId, DeviceGroupId)


class Mode(Enum):
    """A request's state gets to the target in one of these ways."""

    KV = "copy the pages"
    TOKENS = "prefill the tokens again"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveDemand:
    """A decided move needs so much of its links and of its target.

    Raises:
      ValueError: more tokens are cached than there are.
    """

    move: plan.Move
    links: tuple[LinkId, ...]  # on the way from source to target
    tokens: int
    cached_tokens: int = 0  # of its prefix, at the target already
    bytes_per_token: float
    is_late: bool = False  # it was deferred before
    is_mixed: bool = False  # several weights made its pages: tokens cannot make them

    def __post_init__(self) -> None:
        if not (0 <= self.cached_tokens <= self.tokens):
            raise ValueError(
                f"move {self.move.move}: cached_tokens must be from 0 to tokens, got "
                f"{self.cached_tokens} of {self.tokens} tokens cached; count a prefix "
                "that the target has of this request alone"
            )

    @property
    def is_urgent(self) -> bool:
        """Tells whether the move begins even if that overdraws a link or a target."""
        return self.move.is_urgent or self.is_late

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Returns the ways in which its state gets to the target as it is."""
        return (Mode.KV,) if self.is_mixed else tuple(Mode)

    @property
    def new_tokens(self) -> int:
        """Returns the tokens that the target does not have."""
        return self.tokens - self.cached_tokens

    def link_bytes(self, mode: Mode) -> float:
        """Returns the bytes that every link on the way carries."""
        if mode is Mode.KV:
            return self.new_tokens * self.bytes_per_token
        return float(self.tokens * TOKEN_BYTES)

    def prefill_tokens(self, mode: Mode) -> int:
        """Returns the tokens that the target computes."""
        return 1 if mode is Mode.KV else self.new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The moves asked for either begin now, in this order, or wait for an epoch."""

    begun: tuple[tuple[MoveDemand, Mode], ...]
    deferred: tuple[MoveDemand, ...]
    violations: int  # urgent moves that overdraw a link or a target


class Capacities:
    """Capacities are what links and targets have left in this epoch.

    Args:
      link_bytes: that a link carries in a whole epoch; may be inf.
      prefill_tokens: that a target can prefill beside its decodes, likewise.

    Both are looked up and never listed, so a `defaultdict` can stand for a large fleet.
    """

    def __init__(
        self,
        *,
        link_bytes: Mapping[LinkId, float],
        prefill_tokens: Mapping[DeviceGroupId, float],
    ) -> None:
        self._link_bytes = link_bytes
        self._prefill_tokens = prefill_tokens
        self._links_used: dict[LinkId, float] = {}
        self._prefill_used: dict[DeviceGroupId, float] = {}

    def renew(self) -> None:
        """Begins an epoch: all is left again, but for what was overdrawn before."""
        self._links_used = _overdrawn(self._links_used, self._link_bytes)
        self._prefill_used = _overdrawn(self._prefill_used, self._prefill_tokens)

    def divide(self, demands: Sequence[MoveDemand]) -> Division:
        """Chooses a mode for each demand, or defers it.

        Raises:
          ValueError: a link or a target has no capacity given.
        """
        begun: list[tuple[MoveDemand, Mode]] = []
        deferred: list[MoveDemand] = []
        violations = 0
        for demand in sorted(demands, key=_order):
            fractions = {
                mode: self._worst_fraction(demand, mode) for mode in demand.modes
            }
            mode = max(demand.modes, key=fractions.__getitem__)  # KV if they are equal
            has_room = fractions[mode] >= 0
            if has_room or demand.is_urgent:
                begun.append((demand, mode))
                self._take(demand, mode)
                violations += not has_room
            else:
                deferred.append(demand)
        return Division(
            begun=tuple(begun), deferred=tuple(deferred), violations=violations
        )

    def _worst_fraction(self, demand: MoveDemand, mode: Mode) -> float:
        """The least that is left of anything the mode uses; negative: too much."""
        target = demand.move.target
        try:
            whole = self._prefill_tokens[target]
            links = [(link, self._link_bytes[link]) for link in demand.links]
        except KeyError as error:
            raise ValueError(
                f"move {demand.move.move}: no capacity is known for {error}; give "
                "one for every target and every link on the way"
            ) from None
        amount = demand.link_bytes(mode)
        used = self._prefill_used.get(target, 0.0)
        worst = _left(whole - used - demand.prefill_tokens(mode), whole)
        for link, whole in links:
            used = self._links_used.get(link, 0.0)
            worst = min(worst, _left(whole - used - amount, whole))
        return worst

    def _take(self, demand: MoveDemand, mode: Mode) -> None:
        target = demand.move.target
        used = self._prefill_used.get(target, 0.0)
        self._prefill_used[target] = used + demand.prefill_tokens(mode)
        for link in demand.links:
            used = self._links_used.get(link, 0.0)
            self._links_used[link] = used + demand.link_bytes(mode)


def _overdrawn(
    used: Mapping[ResourceT, float], whole: Mapping[ResourceT, float]
) -> dict[ResourceT, float]:
    return {key: used[key] - whole[key] for key in used if used[key] > whole[key]}


def _left(left: float, whole: float) -> float:
    """A fraction; of nothing, only nothing can be taken."""
    if whole == math.inf:
        return 1.0
    if whole == 0:
        return 0.0 if left >= 0 else -math.inf
    return left / whole


def _order(demand: MoveDemand) -> tuple[bool, float, MoveId]:
    """Urgent ones, then what frees most per byte."""
    cheapest = min(demand.link_bytes(mode) for mode in demand.modes)
    freed_per_byte = demand.move.pages / max(cheapest, 1.0)
    return (not demand.is_urgent, -freed_per_byte, demand.move.move)
