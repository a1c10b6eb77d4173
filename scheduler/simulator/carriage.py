"""Carries moves out: which copy pages, which replay tokens, when each of them ends.

The life of a move that waits stands in `scheduler.move_queue`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.transfer import Capacities, LinkId, Mode, MoveDemand


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A move under way; it commits at `ends_s`."""

    move: MoveId
    mode: Mode
    tokens: int
    ends_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What became of the moves that were asked for together."""

    begun: tuple[Begun, ...]
    deferrals: int
    violations: int


class Carriage:
    """Every device has one link out and one in, and prefills for its replays in turn.

    A link carries one move at a time, in the order of the divisions.

    Args:
      ready_s: when each device has loaded its model; nothing is copied to it before.
    """

    def __init__(
        self, settings: Settings, *, ready_s: Mapping[DeviceGroupId, float]
    ) -> None:
        self._settings = settings
        self._ready_s = ready_s
        self._bytes_per_s = settings.link_gbps * 1e9 / 8
        link_bytes = self._bytes_per_s * settings.epoch_s
        slack = settings.replay_tokens_per_s * settings.epoch_s
        self._queue: MoveQueue[tuple[plan.Move, ModelId]] = MoveQueue(
            Capacities(
                link_bytes=defaultdict(lambda: link_bytes),
                prefill_tokens=defaultdict(lambda: slack),
            )
        )
        self._link_free_s: dict[LinkId, float] = {}
        self._prefill_free_s: dict[DeviceGroupId, float] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a move waits for `begin`."""
        return self._queue.is_asked

    def ask(self, move: plan.Move, *, model: ModelId) -> None:
        self._queue.ask(move.move, (move, model))

    def renew(self) -> None:
        """A new epoch begins; what was deferred is asked for again, as urgent."""
        self._queue.renew()

    def begin(
        self, now_s: float, *, tokens_of: Callable[[plan.Move], int | None]
    ) -> Batch:
        """Divides links and prefill between all moves that are asked for.

        `tokens_of` a move is what its request holds now, None if it has ended.
        """
        settled = self._queue.divide(
            lambda item: self._demand(*item, tokens=tokens_of(item[0]))
        )
        return Batch(
            begun=tuple(
                self._start(begun.demand, mode=begun.mode, now_s=now_s)
                for begun in settled.begun
            ),
            deferrals=settled.deferrals,
            violations=settled.violations,
        )

    def _demand(
        self, move: plan.Move, model: ModelId, *, tokens: int | None
    ) -> MoveDemand | None:
        if tokens is None:
            return None
        return MoveDemand(
            move=move.move,
            target=move.target,
            links=(LinkId(f"{move.source} out"), LinkId(f"{move.target} in")),
            tokens=tokens,
            bytes_per_token=self._settings.token_bytes(model),
            frees_pages=move.pages,
            is_urgent=move.is_urgent,
        )

    def _start(self, demand: MoveDemand, *, mode: Mode, now_s: float) -> Begun:
        """Takes the links, and the target's prefill if need be, one after the other."""
        takes_s = demand.link_bytes(mode) / self._bytes_per_s
        start_s = max(
            [now_s, *(self._link_free_s.get(end, 0.0) for end in demand.links)]
        )
        for end in demand.links:
            self._link_free_s[end] = start_s + takes_s
        ready_s = self._ready_s[demand.target]
        ends_s = max(start_s, ready_s) + takes_s
        if mode is Mode.TOKENS:
            start_s = max(ends_s, self._prefill_free_s.get(demand.target, 0.0))
            replay_s = demand.new_tokens / self._settings.prefill_tokens_per_s
            self._prefill_free_s[demand.target] = ends_s = start_s + replay_s
        return Begun(move=demand.move, mode=mode, tokens=demand.tokens, ends_s=ends_s)
