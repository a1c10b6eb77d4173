"""Measures how long decisions take in a large fleet, and the memory of a request.

A fleet is filled to its capacity, then requests grow, end and arrive at random, so that
overflow, search and consolidation all happen; moves are committed at once. In the end a
tenth of the requests leaves within a second, and the fleet is to become smaller.
"""

import math
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
ARRIVALS_PER_S = 1000  # while a fleet is filled
FALL = 0.1  # of the requests, that leave in the end
FALL_STEP_S = 0.02  # after the fall: a few events in every step
FALL_MOST_S = 60.0
CLOSE_ENOUGH = 1.01  # of the instances that the pages left need, packed as before


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """These figures were measured with `instances` instances."""

    instances: int
    requests: int
    events: int
    event_us_p50: float
    event_us_p99: float
    event_us_mean: float
    epoch_us_max: float
    bytes_per_request: float
    fall_s: float  # until the instances had followed a load that fell by a tenth


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
        self.now_s = 0.0
        for device in range(2 * instances):
            self.tell(events.DeviceAdded(device=DeviceGroupId(device)))

    def tell(self, event: events.Event) -> None:
        soon: deque[events.Event] = deque([event])
        while soon:
            now = soon.popleft()
            start = self._clock()
            answer = self.machine.step(now, now_s=self.now_s)
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
            self.now_s += 1 / ARRIVALS_PER_S
            if self.now_s >= self.machine.wake_s:
                self.tell(events.Wake())
            self.tell(events.Arrive(request=RequestId(self._next), pages=pages))
            self._next += 1

    def tick(self, *, seconds: float) -> None:
        self.now_s += seconds
        self.tell(events.Tick(now_s=self.now_s))

    def fall(self) -> float:
        """A tenth leaves; seconds until the fleet is as much smaller, or infinity."""
        ledger = self.machine.ledger
        packed = len(ledger.instances) / ledger.total_pages(events.ONLY_MODEL)
        leaving = int(FALL * len(self._live))
        for _ in range(leaving):
            self.now_s += 1 / leaving
            self._end(int(self._rng.integers(len(self._live))))
        start_s = self.now_s
        for step in range(int(FALL_MOST_S / FALL_STEP_S)):
            needed = packed * ledger.total_pages(events.ONLY_MODEL)
            if len(ledger.instances) <= CLOSE_ENOUGH * needed:
                return self.now_s - start_s
            self.now_s += FALL_STEP_S
            self.churn(GROWTHS_PER_END + 1)
            if step % int(1 / FALL_STEP_S) == 0:
                self.tick(seconds=0.0)
        return math.inf

    def _end(self, index: int) -> None:
        request = self._live[index]
        self._live[index] = self._live[-1]
        self._live.pop()
        self._pages.pop(request, None)
        if RequestId(request) in self.machine.ledger.requests:
            self.tell(events.Finish(request=RequestId(request)))

    def churn(self, count: int) -> None:
        """Random growth; now and then a request ends and another arrives."""
        for step, at in enumerate(self._rng.integers(0, 2**31, count).tolist()):
            index = at % len(self._live)
            request = self._live[index]
            if step % (GROWTHS_PER_END + 1) == 0:
                self._end(index)
                self.arrive(1, share=0.5)
            elif self._can_grow(request):
                self._pages[request] += 1
                pages = self._pages[request]
                self.tell(events.Grow(request=RequestId(request), pages=pages))

    def _can_grow(self, request: int) -> bool:
        """Whether it has a place and is not at its most already."""
        placed = self.machine.ledger.requests[RequestId(request)].device is not None
        return placed and self._pages[request] < CAPACITY_PAGES


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
    for _ in range(num_events // every):
        load.churn(every)
        load.tick(seconds=1.0)
    times = np.asarray(load.event_s) * 1e6
    grown, requests = len(machine.ledger.instances), len(machine.ledger.requests)
    epoch_us_max = float(max(load.epoch_s)) * 1e6
    fall_s = load.fall()
    return Scale(
        instances=grown,
        requests=requests,
        events=len(times),
        event_us_p50=float(np.quantile(times, 0.5)),
        event_us_p99=float(np.quantile(times, 0.99)),
        event_us_mean=float(times.mean()),
        epoch_us_max=epoch_us_max,
        bytes_per_request=(held - own) / (instances * ROWS),
        fall_s=fall_s,
    )
