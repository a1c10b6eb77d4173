"""How long decisions take in a large fleet, and how much memory a request costs.

A fleet is filled to its capacity, then requests grow, end and arrive at random, so that
overflow, search and consolidation all happen; moves are committed at once.
"""

import tracemalloc
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy

ROWS = 50  # requests on an instance
FULL = 0.97  # of its pages
CAPACITY_PAGES = 1250
GROWTHS_PER_END = 12  # so that requests arrive with half of their mean size
EPOCH_EVENTS = 100  # events in an epoch, per instance: one second of 50 requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What was measured with `instances` instances."""

    instances: int
    requests: int
    events: int
    event_us_p50: float
    event_us_p99: float
    event_us_mean: float
    epoch_us_max: float
    bytes_per_request: float


class _Load:
    """A fleet with random requests; remembers the time of every event."""

    def __init__(
        self, machine: Machine, *, instances: int, clock: Callable[[], float]
    ) -> None:
        self.machine = machine
        self.event_s = array("d")
        self.epoch_s = array("d")
        self._clock = clock
        self._rng = np.random.default_rng(instances)
        self._pages: dict[int, int] = {}
        self._live: list[int] = []
        self._next = 0
        for device in range(2 * instances):
            self.tell(events.DeviceAdded(device=DeviceGroupId(device)))

    def tell(self, event: events.Event) -> None:
        soon: deque[events.Event] = deque([event])
        while soon:
            now = soon.popleft()
            start = self._clock()
            answer = self.machine.step(now)
            took = self._clock() - start
            (self.epoch_s if isinstance(now, events.Tick) else self.event_s).append(
                took
            )
            for decision in answer.decisions:
                if isinstance(decision, plan.Move):
                    soon.append(events.MoveCommitted(move=decision.move))

    def arrive(self, count: int, *, share: float = 1.0) -> None:
        """Requests of random size, `share` of the mean of those that live."""
        mean = CAPACITY_PAGES * FULL / ROWS * share
        sizes = self._rng.exponential(mean, count).astype(np.int64) + 1
        for pages in np.minimum(sizes, CAPACITY_PAGES).tolist():
            self._pages[self._next] = pages
            self._live.append(self._next)
            self.tell(events.Arrive(request=RequestId(self._next), pages=pages))
            self._next += 1

    def churn(self, count: int) -> None:
        """Random growth; now and then a request ends and another arrives."""
        for step, at in enumerate(self._rng.integers(0, 2**31, count).tolist()):
            index = at % len(self._live)
            request = self._live[index]
            if step % (GROWTHS_PER_END + 1) == 0:
                self._live[index] = self._live[-1]
                self._live.pop()
                del self._pages[request]
                self.tell(events.Finish(request=RequestId(request)))
                self.arrive(1, share=0.5)
            elif self._pages[request] < CAPACITY_PAGES:
                self._pages[request] += 1
                pages = self._pages[request]
                self.tell(events.Grow(request=RequestId(request), pages=pages))


def measure_scale(
    policy: Policy, *, instances: int, num_events: int, clock: Callable[[], float]
) -> Scale:
    """Fills `instances` instances and times `num_events` events of churn."""
    if not (instances >= 1):
        raise ValueError(f"a fleet has at least 1 instance, got {instances}")
    spec = ModelSpec(capacity_pages=CAPACITY_PAGES, growth_pages_per_s=2.0)
    machine = Machine(models={events.ONLY_MODEL: spec}, policy=policy)
    load = _Load(machine, instances=instances, clock=clock)
    tracemalloc.start()
    load.arrive(instances * ROWS)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = len(load.event_s) * load.event_s.itemsize
    load.event_s = array("d")
    every = max(1, min(num_events // 5, EPOCH_EVENTS * instances))
    for epoch in range(num_events // every):
        load.churn(every)
        load.tell(events.Tick(now_s=float(epoch + 1)))
    times = np.asarray(load.event_s) * 1e6
    return Scale(
        instances=len(machine.ledger.instances),
        requests=len(machine.ledger.requests),
        events=len(times),
        event_us_p50=float(np.quantile(times, 0.5)),
        event_us_p99=float(np.quantile(times, 0.99)),
        event_us_mean=float(times.mean()),
        epoch_us_max=float(max(load.epoch_s)) * 1e6,
        bytes_per_request=(held - own) / (instances * ROWS),
    )
