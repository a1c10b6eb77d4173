"""Shadows follow a fleet by other policies, when there is time and never for long.

    hear: an event is filed, in well under a microsecond
    work: filed events are told to the shadows, a slice at a time, out of an allowance
          that grows by `SHARE` of the time that passes

When that is too little, shadows hear of growth by steps of several pages, so that they
are less exact and not late. What raises, or cannot keep up even so, ends without the
fleet noticing.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from mell_jax.engine.fleet.news import tell_shadow_ended
from mell_jax.engine.stream_view import ShadowView
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.device_seconds import DeviceSeconds
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.placement.shadow import Shadow
from mell_jax.scheduler.policies import POLICIES

SHARE = 0.01
"""Of a core, that all shadows together may take."""
SLICE_S = 0.001  # of work at a time: a step waits no longer
SAVED_S = 0.01  # of allowance, for what comes together
LATE_S = 0.5  # since the oldest event that waits: growth is told by larger steps
CALM_S = 10.0  # without being late: by smaller ones
MOST_STEP = 32  # pages
MOST_WAITING = 50_000  # events; who is so far behind never catches up
_AT_ONCE = 8  # events between two looks at the clock


@dataclass(slots=True, kw_only=True)
class _Followed:
    policy: str
    shadow: Shadow
    in_use: DeviceSeconds = field(default_factory=DeviceSeconds)
    ended: ShadowView | None = None  # its last view, if it has ended


@final
class Shadows:
    """The shadows follow one fleet, on its thread.

    Args:
      models: as the fleet's machine has them.
      policies: their names in `POLICIES`; without any, nothing is done.
      config: what policies are told.
      clock: seconds that this thread has computed.
    """

    def __init__(
        self,
        models: Mapping[ModelId, ModelSpec],
        *,
        policies: Sequence[str],
        config: PolicyConfig,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._all = [
            _Followed(
                policy=name,
                shadow=Shadow(models=models, policy=POLICIES[name](config)),
            )
            for name in policies
        ]
        self._clock = clock
        self._waiting: deque[tuple[events.Event, float]] = deque()
        self._step_pages = 1  # growth is told at multiples of these
        self._stepped_s = 0.0  # when they were changed, or it was late
        self._allowance_s = SAVED_S
        self._now_s = 0.0
        self._cost_s = 0.0

    @property
    def is_behind(self) -> bool:
        """Returns whether events wait."""
        return bool(self._waiting)

    def hear(self, event: events.Event, answer: plan.Plan, *, now_s: float) -> None:
        """Files what has happened, and what the fleet's own machine has refused."""
        if not self._followed:
            return
        if isinstance(event, events.Grow) and event.pages % self._step_pages:
            return
        self._waiting.append((event, now_s))
        for decision in answer.decisions:
            if isinstance(decision, plan.Reject):  # no end of it will be told
                end = events.Finish(request=decision.request)
                self._waiting.append((end, now_s))

    def work(self, *, now_s: float) -> None:
        """Tells the shadows what waits, as far as the allowance goes."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        self._allowance_s = min(self._allowance_s + SHARE * passed_s, SAVED_S)
        if not self._followed:
            return
        self._choose_step(now_s)
        if not self._waiting or self._allowance_s <= 0.0:
            return
        if len(self._waiting) > MOST_WAITING:
            self._end_all(f"{len(self._waiting)} events wait")
            return
        start_s = self._clock()
        until_s = start_s + min(self._allowance_s, SLICE_S)
        while self._waiting and self._clock() < until_s:
            for _ in range(_AT_ONCE):
                if self._waiting:  # none is left when the last shadow has ended
                    self._tell_next()
        took_s = self._clock() - start_s
        self._allowance_s -= took_s
        self._cost_s += took_s

    def views(self, *, now_s: float) -> tuple[ShadowView, ...]:
        """Returns what all of them come to."""
        return tuple(each.ended or self._view(each, now_s=now_s) for each in self._all)

    @property
    def _followed(self) -> list[_Followed]:
        return [each for each in self._all if each.ended is None]

    def _view(self, one: _Followed, *, now_s: float) -> ShadowView:
        return ShadowView(
            policy=one.policy,
            devices=one.shadow.devices,
            device_s=one.in_use.total_s(now_s),
            cost_s=self._cost_s,
        )

    def _choose_step(self, now_s: float) -> None:
        """Has growth told by larger steps while shadows are late, or smaller again."""
        since_s = now_s - self._stepped_s
        is_late = bool(self._waiting) and now_s - self._waiting[0][1] > LATE_S
        if is_late and since_s >= LATE_S:
            self._stepped_s = now_s
            self._step_pages = min(2 * self._step_pages, MOST_STEP)
        elif since_s >= CALM_S:
            self._stepped_s = now_s
            self._step_pages = max(self._step_pages // 2, 1)

    def _tell_next(self) -> None:
        event, at_s = self._waiting.popleft()
        for one in self._followed:
            try:
                one.shadow.tell(event, now_s=at_s)
            except Exception as error:  # the edge: a shadow is no part of the fleet
                self._end(one, why="it failed", error=error)
            else:
                one.in_use.count(one.shadow.devices, now_s=at_s)

    def _end_all(self, why: str) -> None:
        for one in self._followed:
            self._end(one, why=why)

    def _end(self, one: _Followed, *, why: str, error: Exception | None = None) -> None:
        one.ended = replace(self._view(one, now_s=self._now_s), is_over=True)
        tell_shadow_ended(one.policy, why=why, error=error)
        if not self._followed:
            self._waiting.clear()
