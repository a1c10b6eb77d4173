"""Which of the moves asked for begin now, and how: one division for all of them.

    asked for since the last division -> copied, sent as tokens, or
                                      -> deferred: begun at the next epoch, as urgent

A deferred move keeps its reservation and is never called off for want of a link: the
machine counts on the pages that it will free and lets requests pause until they are,
and a policy asked again with the same books would answer with the same move.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mell_jax.engine.fleet.live import Live
from mell_jax.engine.fleet.profile import Profile
from mell_jax.scheduler.ids import DeviceId, ModelId, MoveId
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Capacities, Mode, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What a move has to bring to its target."""

    tokens: int
    cached_tokens: int  # of its prefix, at the target already
    bytes_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """What became of the moves, in the order to begin them."""

    begun: tuple[tuple[plan.Move, Mode], ...]
    deferred: int
    violations: int


class Moves:
    """Moves that were asked for and have not begun.

    Args:
      profile: what links and targets can do.
      epoch_s: between two calls of `renew`.
      mode: of every move, which then all begin at once; None: as divided.
    """

    def __init__(self, profile: Profile, *, epoch_s: float, mode: Mode | None) -> None:
        self._profile = profile
        self._mode = mode
        self._asked: dict[MoveId, plan.Move] = {}
        self._deferred: dict[MoveId, plan.Move] = {}
        self._late: set[MoveId] = set()  # of those asked for, deferred before
        self._slack = profile.prefill_tokens(epoch_s)
        self._prefill_tokens: dict[DeviceId, float] = {}  # of the models there now
        self._capacities = Capacities(
            link_bytes=profile.link_bytes(epoch_s),
            prefill_tokens=self._prefill_tokens,
        )

    @property
    def is_asked(self) -> bool:
        """Whether a move waits for `divide`."""
        return bool(self._asked)

    def target_opens(self, device: DeviceId, model: ModelId) -> None:
        """An instance of `model` may be the target of moves from now on."""
        self._prefill_tokens[device] = self._slack[device, model]

    def ask(self, move: plan.Move) -> None:
        self._asked[move.move] = move

    def renew(self) -> None:
        """A new epoch begins; what was deferred is asked for again."""
        self._capacities.renew()
        self._asked |= self._deferred
        self._late |= self._deferred.keys()
        self._deferred = {}

    def divide(self, cargo_of: Callable[[plan.Move], Cargo | None]) -> Division:
        """Settles everything asked for; a move without cargo has ended meanwhile."""
        asked, self._asked = self._asked, {}
        cargos = {move.move: cargo_of(move) for move in asked.values()}
        if self._mode is not None:
            live = [move for move in asked.values() if cargos[move.move] is not None]
            begun = tuple((move, self._mode) for move in live)
            return Division(begun=begun, deferred=0, violations=0)
        division = self._capacities.divide(
            [
                self._wish(asked[move], cargo)
                for move, cargo in cargos.items()
                if cargo is not None
            ]
        )
        self._late -= asked.keys()
        self._deferred |= {move: asked[move] for move in division.deferred}
        return Division(
            begun=tuple((asked[move], mode) for move, mode in division.modes.items()),
            deferred=len(division.deferred),
            violations=division.violations,
        )

    def _wish(self, move: plan.Move, cargo: Cargo) -> Wish:
        return Wish(
            move=move.move,
            target=move.target,
            links=self._profile.links(move.source, move.target),
            tokens=cargo.tokens,
            cached_tokens=cargo.cached_tokens,
            bytes_per_token=cargo.bytes_per_token,
            frees_pages=move.pages,
            is_urgent=move.is_urgent or move.move in self._late,
        )


def order(move: plan.Move, *, mode: Mode, live: Live) -> orders.Move:
    """What the protocol is told of a move that begins now."""
    return orders.Move(
        move=move.move,
        request=move.request,
        target=move.target,
        mode=mode,
        pages=live.pages,
        known=len(live.tokens),
        is_urgent=move.is_urgent,
    )
