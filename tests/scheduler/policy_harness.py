"""A fleet whose moves take no time, and random workloads for it.

Every event is followed by a recount of the ledger, so a policy that ends up over an
instance's capacity or loses a request fails wherever this is used.
"""

from collections import Counter, deque
from collections.abc import Iterator

import numpy as np

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    DeviceAdded,
    Event,
    Finish,
    Grow,
    MoveCommitted,
    Tick,
)
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies import POLICIES


class Fleet:
    """One machine; `step` answers with all decisions until no move is under way."""

    def __init__(
        self,
        policy: str | Policy,
        *,
        capacity: int,
        devices: int = 100,
        config: PolicyConfig | None = None,
        growth_pages_per_s: float = 0.0,
        spec: ModelSpec | None = None,
    ) -> None:
        if isinstance(policy, str):
            policy = POLICIES[policy](config or PolicyConfig())
        self.policy = policy
        spec = spec or ModelSpec(
            capacity_pages=capacity, growth_pages_per_s=growth_pages_per_s
        )
        self.machine = Machine(models={ONLY_MODEL: spec}, policy=policy)
        self.capacity = capacity
        self.epochs = 0
        for device in range(devices):
            self.step(DeviceAdded(device=DeviceGroupId(device)))

    def step(self, event: Event) -> list[plan.Decision]:
        decisions: list[plan.Decision] = []
        events: deque[Event] = deque([event])
        while events:
            for decision in self.machine.step(events.popleft()).decisions:
                decisions.append(decision)
                if isinstance(decision, plan.Move):
                    events.append(MoveCommitted(move=decision.move))
            self.machine.ledger.check()
        return decisions

    def arrive(
        self, request: int, pages: int, peak: int | None = None
    ) -> list[plan.Decision]:
        arrival = Arrive(request=RequestId(request), pages=pages, peak_pages=peak)
        return self.step(arrival)

    def grow(self, request: int, pages: int) -> list[plan.Decision]:
        return self.step(Grow(request=RequestId(request), pages=pages))

    def finish(self, request: int) -> list[plan.Decision]:
        return self.step(Finish(request=RequestId(request)))

    def tick(self) -> list[plan.Decision]:
        self.epochs += 1
        return self.step(Tick(now_s=float(self.epochs)))

    @property
    def sizes(self) -> dict[int, list[int]]:
        """Pages of the requests on each device in use, largest first."""
        instances = self.machine.ledger.instances
        return {
            device: sorted((r.pages for r in i.requests.values()), reverse=True)
            for device, i in sorted(instances.items())
        }

    @property
    def live(self) -> dict[int, int]:
        """Pages of every request that has a place."""
        requests = self.machine.ledger.requests.values()
        return {r.id: r.pages for r in requests if r.device is not None}


def moved(decisions: list[plan.Decision]) -> list[tuple[int, int, int]]:
    """(request, source, target) of every move."""
    return [
        (d.request, d.source, d.target) for d in decisions if isinstance(d, plan.Move)
    ]


def counts(decisions: list[plan.Decision]) -> Counter[str]:
    """Decisions by kind."""
    return Counter(type(decision).__name__ for decision in decisions)


def drive(
    fleet: Fleet, *, seed: int, epochs: int, load: float = 8.0, growth: float = 0.5
) -> Iterator[list[plan.Decision]]:
    """Random arrivals, growth and ends, about `load` instances full; yields each epoch.

    Sizes are drawn from a mixture whose weights differ by seed, so that every class and
    every boundary between classes appears.
    """
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(5))
    capacity, serial = fleet.capacity, 0
    edges = np.array([1 / capacity, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 1])
    for _ in range(epochs):
        decisions: list[plan.Decision] = []
        full = sum(fleet.live.values()) / capacity
        for _ in range(int(rng.poisson(3.0 if full < load else 0.5))):
            kind = int(rng.choice(5, p=weights))
            share = rng.uniform(edges[kind], edges[kind + 1])
            pages = min(capacity, max(1, round(share * capacity)))
            decisions += fleet.arrive(serial, pages)
            serial += 1
        for request in list(fleet.live):
            pages = fleet.live.get(request)
            if pages is None:
                continue
            if rng.random() < 0.03 or (full > load and rng.random() < 0.05):
                decisions += fleet.finish(request)
            elif rng.random() < growth and pages < capacity:
                step = int(rng.integers(1, max(2, capacity // 50)))
                decisions += fleet.grow(request, min(capacity, pages + step))
        decisions += fleet.tick()
        yield decisions
