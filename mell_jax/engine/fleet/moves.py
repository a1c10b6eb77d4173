"""Which of the moves asked for begin now, and how, by what the fleet can do.

The life of a move that waits stands in `scheduler.move_queue`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Capacities, Mode, MoveDemand


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveSize:
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
        self._slack = profile.prefill_tokens(epoch_s)
        self._prefill_tokens: dict[
            DeviceGroupId, float
        ] = {}  # of the models there last
        self._open: set[DeviceGroupId] = set()
        self._early: dict[DeviceGroupId, list[plan.Move]] = {}  # to others
        self._queue: MoveQueue[plan.Move] = MoveQueue(
            Capacities(
                link_bytes=profile.link_bytes(epoch_s),
                prefill_tokens=self._prefill_tokens,
            )
        )

    @property
    def is_asked(self) -> bool:
        """Whether a move waits for `divide`."""
        return self._queue.is_asked

    def target_opens(self, device: DeviceGroupId, model: ModelId) -> None:
        """An instance of `model` may be the target of moves from now on."""
        self._open.add(device)
        self._prefill_tokens[device] = self._slack[device, model]
        for move in self._early.pop(device, ()):
            self.ask(move)

    def target_closes(self, device: DeviceGroupId) -> None:
        """No instance is there any more; moves to it have ended."""
        self._open.discard(device)
        self._early.pop(device, None)

    def ask(self, move: plan.Move) -> None:
        """A move waits until its target is open, and then for the next division."""
        if move.target in self._open:
            self._queue.ask(move.move, move)
        else:
            self._early.setdefault(move.target, []).append(move)

    def renew(self) -> None:
        """A new epoch begins; what was deferred is asked for again."""
        self._queue.renew()

    def divide(self, size_of: Callable[[plan.Move], MoveSize | None]) -> Division:
        """Settles everything asked for; a move without size has ended meanwhile."""
        if self._mode is not None:
            asked = [move for move in self._queue.take_all() if size_of(move)]
            begun = tuple((move, self._mode) for move in asked)
            return Division(begun=begun, deferred=0, violations=0)
        settled = self._queue.divide(lambda move: self._demand(move, size_of(move)))
        return Division(
            begun=tuple((begun.item, begun.mode) for begun in settled.begun),
            deferred=settled.deferrals,
            violations=settled.violations,
        )

    def _demand(self, move: plan.Move, size: MoveSize | None) -> MoveDemand | None:
        if size is None:
            return None
        return MoveDemand(
            move=move.move,
            target=move.target,
            links=self._profile.links(move.source, move.target),
            tokens=size.tokens,
            cached_tokens=size.cached_tokens,
            bytes_per_token=size.bytes_per_token,
            frees_pages=move.pages,
            is_urgent=move.is_urgent,
        )


def order(move: plan.Move, *, mode: Mode, state: RequestState) -> orders.Move:
    """What the protocol is told of a move that begins now."""
    return orders.Move(
        move=move.move,
        request=move.request,
        target=move.target,
        mode=mode,
        pages=state.pages,
        known=len(state.tokens),
        is_urgent=move.is_urgent,
    )
