"""Measures a fleet in the wall's time, or in that of devices of given speeds.

    WallTime      the machine's own
    DeviceTime    round by round: all devices step together, at one speed
    EventTime     from result to result: each device goes at its own pace (`paced`)

Instances that share one device take turns on it, so the wall's clock says more about
that device than about the fleet. The other timeline lets every round (one `Fleet.step`)
last as long as the slowest instance's step would on a device of its own:

    step_s + prompt tokens / prefill_tokens_per_s

so that a run is the same on every machine, busy or not, and skips idle time. A round
then lands a step of every instance (`EveryArrival`).
"""

import math
import time
from collections.abc import Mapping
from typing import Protocol, final

from benchmarks.fleet.paced import PacedPending
from mell_jax.engine.fleet.arrivals import Arrivals, Result
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.ids import DeviceGroupId


class Timeline(Protocol):
    """The time starts at 0."""

    due_s: float
    """When the next request comes: whoever waits for devices waits no longer."""

    def now_s(self) -> float: ...

    def stepped(self, fleet: Fleet) -> None:
        """Notes that a round has ended."""

    def wait_until(self, due_s: float) -> None:
        """Waits until `due_s`; nothing happens before."""


@final
class WallTime:
    """The time is the machine's own."""

    def __init__(self) -> None:
        self.due_s = math.inf
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._start_s

    def stepped(self, fleet: Fleet) -> None:
        pass

    def wait_until(self, due_s: float) -> None:
        time.sleep(max(0.0, due_s - self.now_s()))


@final
class DeviceTime:
    """The time is that of devices of their own; see the module's docstring."""

    def __init__(self, *, step_s: float, prefill_tokens_per_s: float) -> None:
        self.due_s = math.inf
        self._step_s = step_s
        self._prefill_tokens_per_s = prefill_tokens_per_s
        self._now_s = 0.0
        self._launched_s = 0.0  # what the steps in flight take

    def now_s(self) -> float:
        return self._now_s

    def stepped(self, fleet: Fleet) -> None:
        """Adds a round, which brought in the steps that the one before had launched."""
        self._now_s += self._launched_s
        self._launched_s = max(
            (self._takes_s(m.inner) for m in fleet.instances.values()), default=0.0
        )

    def wait_until(self, due_s: float) -> None:
        self._now_s = max(self._now_s, due_s)

    def _takes_s(self, instance: Instance) -> float:
        step = instance.in_flight
        if step is None:
            return 0.0
        prompt = step.plan.num_tokens - len(step.plan.slots)
        return self._step_s + prompt / self._prefill_tokens_per_s


@final
class EveryArrival:
    """Waits for all results, so that a round lands a step of every instance.

    Time by rounds would otherwise count a round for the first of them alone.
    """

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        """Returns when all results are here."""
        for result in results.values():
            result.wait()

    def ring(self) -> None:
        """Has nothing to end: nobody leaves messages meanwhile."""

    def end(self, *, most_s: float) -> None:
        """Has no thread to wait for."""


@final
class EventTime:
    """The time goes on only while the fleet waits for devices, to their first result.

    It is a timeline and what waits for it. Python takes no time, so a run is the same
    on every machine.
    """

    def __init__(self) -> None:
        self.due_s = math.inf
        self._now_s = 0.0

    def now_s(self) -> float:
        return self._now_s

    def stepped(self, fleet: Fleet) -> None:
        """Has nothing to add: devices have taken their time."""

    def wait_until(self, due_s: float) -> None:
        self._now_s = max(self._now_s, due_s)

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        """Goes on to the first result, to the next request, or by `most_s`."""
        ends_s = [_due_s(result) for result in results.values()]
        ends_s += [self._now_s + most_s, self.due_s]
        self._now_s = max(self._now_s, min(ends_s))
        for result in results.values():
            if _due_s(result) <= self._now_s:
                result.wait()  # for what computes it, which takes no time here

    def ring(self) -> None:
        """Has nothing to end: nobody leaves messages meanwhile."""

    def end(self, *, most_s: float) -> None:
        """Has no thread to wait for."""


def _due_s(result: Result) -> float:
    assert isinstance(result, PacedPending), f"{result} has no pace"
    return result.due_s


@final
class TimelyArrivals:
    """Waits as others do, and no longer than until the next request comes."""

    def __init__(self, inner: Arrivals, *, timeline: Timeline) -> None:
        self._inner = inner
        self._timeline = timeline

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        left_s = max(0.0, self._timeline.due_s - self._timeline.now_s())
        self._inner.wait(results, most_s=min(most_s, left_s))

    def ring(self) -> None:
        self._inner.ring()

    def end(self, *, most_s: float) -> None:
        self._inner.end(most_s=most_s)
