"""A fleet of large and small devices whose moves take no time, for tests of kinds.

BIG holds 20 pages at 3.0 an hour, SMALL 10 at 1.0; device ids tell which is which:
those from 100 on are small.
"""

from collections import deque
from collections.abc import Mapping

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind import DeviceKind
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

BIG, SMALL = KindId("big"), KindId("small")
FIRST_SMALL = 100
CHEAP_SMALL = {
    BIG: DeviceKind(
        models={ONLY_MODEL: ModelSpec(capacity_pages=20)}, price_per_hour=3.0
    ),
    SMALL: DeviceKind(
        models={ONLY_MODEL: ModelSpec(capacity_pages=10)}, price_per_hour=1.0
    ),
}
CHEAP_BIG = {
    BIG: DeviceKind(
        models={ONLY_MODEL: ModelSpec(capacity_pages=20)}, price_per_hour=1.5
    ),
    SMALL: DeviceKind(
        models={ONLY_MODEL: ModelSpec(capacity_pages=10)}, price_per_hour=1.0
    ),
}


class KindsFleet:
    """One machine; `said` has the decisions of the latest event in short."""

    def __init__(
        self,
        policy: str = "best_fit",
        *,
        kinds: Mapping[KindId, DeviceKind] = CHEAP_SMALL,
        big: int = 4,
        small: int = 4,
        config: PolicyConfig | None = None,
    ) -> None:
        models: dict[ModelId, ModelSpec] = {}
        for kind in kinds.values():
            models = dict(kind.models) | models
        self.machine = Machine(
            models=models,
            policy=POLICIES[policy](config or PolicyConfig()),
            kinds=kinds,
        )
        self.now_s = 0.0
        for number in range(big):
            self.add(number, BIG)
        for number in range(small):
            self.add(FIRST_SMALL + number, SMALL)

    def add(self, number: int, kind: KindId) -> list[str]:
        return self.tell(events.DeviceAdded(device=DeviceGroupId(number), kind=kind))

    def tell(self, event: events.Event) -> list[str]:
        """Decisions in short, with those that the commits bring."""
        said: list[str] = []
        soon: deque[events.Event] = deque([event])
        while soon:
            now = soon.popleft()
            for decision in self.machine.step(now, now_s=self.now_s).decisions:
                if isinstance(decision, plan.Move):
                    soon.append(events.MoveCommitted(move=decision.move))
                said.append(_short(decision))
            self.machine.ledger.check()
        return said

    def arrive(
        self,
        request: int,
        pages: int,
        *,
        peak: int | None = None,
        model: ModelId = ONLY_MODEL,
    ) -> list[str]:
        return self.tell(
            events.Arrive(
                request=RequestId(request), pages=pages, peak_pages=peak, model=model
            )
        )

    def grow(self, request: int, pages: int) -> list[str]:
        return self.tell(events.Grow(request=RequestId(request), pages=pages))

    def finish(self, request: int) -> list[str]:
        return self.tell(events.Finish(request=RequestId(request)))

    def lose(self, device: int) -> list[str]:
        return self.tell(events.DeviceLost(device=DeviceGroupId(device)))

    def tick(self, seconds: float = 1.0) -> list[str]:
        self.now_s += seconds
        return self.tell(events.Tick(now_s=self.now_s))

    @property
    def sizes(self) -> dict[int, list[int]]:
        """Pages of the requests on each open device, in the order of their coming."""
        instances = self.machine.ledger.instances
        return {
            int(device): [request.pages for request in instance.requests.values()]
            for device, instance in sorted(instances.items())
        }

    @property
    def price(self) -> float:
        """What the open devices cost an hour."""
        instances = self.machine.ledger.instances.values()
        return sum(instance.books.price_per_hour for instance in instances)


def _short(decision: plan.Decision) -> str:
    match decision:
        case plan.Place():
            said = f"place {decision.request} on {decision.device}"
        case plan.Move():
            said = f"move {decision.request} to {decision.target}"
        case plan.Activate():
            said = f"open {decision.device} {decision.kind}"
        case plan.Park():
            said = f"park {decision.device}"
        case plan.Preempt() | plan.Reject() | plan.Wait():
            said = f"{type(decision).__name__.lower()} {decision.request}"
    return said
