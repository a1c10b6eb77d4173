"""A question is what an operator asks; an answer has all that was found out."""

from dataclasses import dataclass
from enum import Enum

from mell_jax.planner.load import Slo
from mell_jax.planner.option import Option
from mell_jax.planner.shape import ModelShape
from mell_jax.planner.trial import Trial
from mell_jax.scheduler.simulator.workload import Workload


class Payment(Enum):
    """Devices are paid for all the time, or only while they are not parked."""

    OWNED = "owned"
    USED = "used"


class Side(Enum):
    """Fleets move requests, or cannot."""

    MOVING = "with migration"
    PINNED = "without"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer is a fleet that meets the SLO, over the whole trace or its busiest part.

    Attributes:
      options: one for each number of `trial.fleet`.
    """

    options: tuple[Option, ...]
    trial: Trial
    is_whole: bool

    @property
    def instances(self) -> dict[Option, int]:
        """Returns how many instances there are of which option."""
        counted = zip(self.options, self.trial.fleet, strict=True)
        return {option: count for option, count in counted if count}

    @property
    def devices(self) -> int:
        return sum(option.width * count for option, count in self.instances.items())

    @property
    def devices_in_use(self) -> float:
        """Returns the mean of devices that are not parked."""
        used = zip(self.options, self.trial.in_use, strict=True)
        return sum(option.width * mean for option, mean in used)

    def price_per_hour(self, payment: Payment) -> float:
        """Returns what an hour costs, as a mean."""
        counts: tuple[float, ...] = self.trial.fleet
        if payment is Payment.USED:
            counts = self.trial.in_use
        return sum(
            option.price_per_hour * count
            for option, count in zip(self.options, counts, strict=True)
        )

    @property
    def name(self) -> str:
        """Returns the devices in words, such as "3 x H100 + 1 x L4"."""
        return " + ".join(
            f"{option.width * count} x {option.kind}"
            for option, count in self.instances.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question is which fleet serves a load in time for the least money.

    Attributes:
      options: instances that there are, of all kinds and widths.
      policies: with migration.
      baselines: policies without.
      slice_requests: of the busiest stretch that is searched first.
      is_whole: the best fleets are tried on the whole trace in the end.
      mix_tries: mixes of kinds that are tried at most, on each side.
      most_instances: of one option.
    """

    workload: Workload
    shape: ModelShape
    options: tuple[Option, ...]
    slo: Slo
    payment: Payment
    policies: tuple[str, ...]
    baselines: tuple[str, ...]
    headroom: float = 0.0
    slice_requests: int = 1500
    is_whole: bool = True
    mix_tries: int = 6
    most_instances: int = 1000

    def side_of(self, policy: str) -> Side:
        """Returns whether a policy moves requests."""
        return Side.MOVING if policy in self.policies else Side.PINNED

    def price_of(self, offer: Offer) -> float:
        """Returns what an hour of an offer costs, as it is paid for."""
        return offer.price_per_hour(self.payment)

    def cost_of(self, offer: Offer) -> tuple[float, float]:
        """Returns what offers are ordered by: of equal prices, the other payment's."""
        used = Payment.USED if self.payment is Payment.OWNED else Payment.OWNED
        return self.price_of(offer), offer.price_per_hour(used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A kind of device does not meet the SLO under a policy, or under any (None)."""

    kind: str
    policy: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer has the cheapest fleets, and what each kind would take.

    Attributes:
      busiest_s: begin and end of the stretch that was searched.
      offers: of each policy, kinds alone and mixes, over that stretch.
      unmet: kinds that cannot meet the SLO.
      best: the cheapest offer of each side.
      trials: simulations that it took.
    """

    question: Question
    busiest_s: tuple[float, float]
    offers: tuple[Offer, ...]
    unmet: tuple[Unmet, ...]
    best: dict[Side, Offer]
    trials: int
