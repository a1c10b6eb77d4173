"""Carries moves out: which copy pages, which replay tokens, when each of them ends.

The life of a move that waits stands in `scheduler.move_queue`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.simulator.links import LinkSpeeds, path
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.transfer import Capacities, Division, LinkId, Mode, MoveDemand


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A move is under way and commits at `ends_s`; None: that depends on others."""

    move: MoveId
    mode: Mode
    tokens: int
    ends_s: float | None = None


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
        self._kinds = settings.fleet()
        slack = settings.replay_tokens_per_s * settings.epoch_s
        self._queue = MoveQueue(
            Capacities(
                link_bytes=LinkSpeeds(settings, seconds=settings.epoch_s),
                prefill_tokens={
                    device: slack * own.speed for device, own in self._kinds.items()
                },
            )
        )
        self._link_free_s: dict[LinkId, float] = {}
        self._prefill_free_s: dict[DeviceGroupId, float] = {}

    @property
    def is_asked(self) -> bool:
        """Tells whether a move waits for `divide`."""
        return self._queue.is_asked

    def ask(self, move: plan.Move) -> None:
        """Files a move for the next division."""
        self._queue.ask(move)

    def renew(self) -> None:
        """Begins an epoch; what was deferred is asked for again, as urgent."""
        self._queue.renew()

    def divide(self, demand_of: Callable[[plan.Move], MoveDemand | None]) -> Division:
        """Divides links and prefill between all moves that are asked for.

        Args:
          demand_of: what a move needs now; None if its request has ended.
        """
        return self._queue.divide(demand_of)

    def demand(
        self, move: plan.Move, *, model: ModelId, tokens: int, cached_tokens: int = 0
    ) -> MoveDemand:
        """Returns what a move of a request with `tokens` needs, at least one.

        Args:
          cached_tokens: that its target has.
        """
        return MoveDemand(
            move=move,
            links=path(self._settings, source=move.source, target=move.target),
            tokens=tokens,
            cached_tokens=cached_tokens,
            bytes_per_token=self._settings.held_bytes_per_token(model, tokens=tokens),
        )

    def begin(self, demand: MoveDemand, *, mode: Mode, now_s: float) -> float:
        """Takes the links, and the target's prefill if need be, one after the other.

        Returns:
          when the move commits, in seconds.
        """
        amount = demand.link_bytes(mode)
        ends_s = self.carry(demand, amount_bytes=amount, now_s=now_s)
        if mode is Mode.TOKENS:
            ends_s = self.replay(demand, there_s=ends_s)
        return ends_s

    def carry(self, demand: MoveDemand, *, amount_bytes: float, now_s: float) -> float:
        """Takes the links of a move; returns when they have carried so much."""
        takes_s = amount_bytes / self._bytes_per_s
        start_s = max(
            [now_s, *(self._link_free_s.get(end, 0.0) for end in demand.links)]
        )
        for end in demand.links:
            self._link_free_s[end] = start_s + takes_s
        return max(start_s, self._ready_s[demand.move.target]) + takes_s

    def replay(self, demand: MoveDemand, *, there_s: float) -> float:
        """Takes the prefill of a target; returns when tokens are computed there."""
        target = demand.move.target
        start_s = max(there_s, self._prefill_free_s.get(target, 0.0))
        speed = self._kinds[target].speed
        replay_s = demand.new_tokens / (self._settings.prefill_tokens_per_s * speed)
        self._prefill_free_s[target] = ends_s = start_s + replay_s
        return ends_s
