"""Instances go at their own pace: each has a step under way and one behind it.

    launch what is free -> wait for the first result, if nothing can go on -> land

One thread drives them all. It waits only where no step can be launched and none has
come, for whichever comes first, or for a message.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, final

from absl import logging

from mell_jax.engine.fleet.arrivals import Arrivals, Result
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.fleet.patience import LATE_S, Patience
from mell_jax.engine.fleet.probes import Probes
from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.frames import StepFrame
from mell_jax.engine.step_times import StepPhase, StepTimes
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.worker.device import Pending

if TYPE_CHECKING:  # who measures steps alone has no msgpack
    from mell_jax.engine.kv_events.news import KvEvents

Found = TypeVar("Found")
LOOK_S = 0.001
"""Between two looks at what nobody tells of: whether an instance is open by now, or
pages are there, when nothing else is to be done."""


class Hands(Protocol):
    """The pace needs this much of whoever has the instances."""

    @property
    def instances(self) -> Mapping[DeviceGroupId, FleetInstance]: ...

    @property
    def tally(self) -> FleetTally: ...

    @property
    def is_opening(self) -> bool:
        """Returns whether an instance is being made ready."""

    def see(self, frame: StepFrame) -> None:
        """Counts what a step has brought."""

    def ask_for_pages(self, instances: Iterable[FleetInstance]) -> None: ...

    def guard(
        self, instance: FleetInstance, do: Callable[[], Found]
    ) -> Found | None: ...

    def forget(self, request: RequestId) -> None: ...

    def can_lose(self, device: DeviceGroupId) -> bool: ...


@final
class Pace:
    """The pace launches and lands the steps of all instances.

    Args:
      hands: has the instances.
      arrivals: waits for devices.
      times: are told where time goes.
      is_single: there is one device group; it is waited for where its step lands.
      now_s: the time at the start.
      kv_events: is told of cached prefixes, once a round; None for nobody.
    """

    def __init__(
        self,
        hands: Hands,
        *,
        config: FleetConfig,
        arrivals: Arrivals,
        times: StepTimes,
        is_single: bool,
        now_s: float,
        kv_events: "KvEvents | None" = None,
    ) -> None:
        self.steps = 0
        self._kv_events = kv_events
        self.patience = Patience(stall_s=config.stall_s)
        self._hands = hands
        self._config = config
        self._arrivals = arrivals
        self._times = times
        self._is_single = is_single
        self._now_s = now_s
        self._may_go_on = False
        self._probes = Probes(
            hands,
            patience=self.patience,
            arrivals=arrivals,
            see=self._see,
            now_s=now_s,
        )

    def begin(self, now_s: float) -> None:
        """Begins a round, in which probes are looked at."""
        self.steps += 1
        self._now_s = now_s
        if self.patience.is_tried:
            self.patience.forget_others(self._hands.instances.values())
        self._probes.look(now_s)

    def probe(self) -> None:
        """Makes every device that is open compute something, and waits for them.

        One that fails is fenced as if a step had. One that gives no answer keeps others
        no longer than a late step would.
        """
        self._probes.ask_all(self._now_s)

    def launch(self) -> list[StepFrame]:
        """Starts steps where none waits to land; returns what guides have found."""
        with_news = [each for each in self._all() if each.inner.has_news]
        frames = self._bring_in(_hear, among=with_news)
        self._may_go_on = self._launch_free()
        return frames

    def rest(self) -> None:
        """Launches nothing, so that what is under way can land."""
        is_computing = [each.inner.rest() for each in self._all()]
        self._may_go_on = not any(is_computing)

    def land(self, *, most_wait_s: float, has_work: bool) -> list[StepFrame]:
        """Brings in the steps that are over, after a wait if none can be launched.

        Args:
          most_wait_s: until something else is due.
          has_work: something is to be looked at again soon.
        """
        if not self._may_go_on:
            self._wait(most_s=most_wait_s, has_work=has_work)
        frames = self._bring_in(self._land_one, among=self._all())
        if self._kv_events is not None:
            self._kv_events.tell(self._hands.instances)
        return frames

    def _all(self) -> list[FleetInstance]:
        return list(self._hands.instances.values())

    def _launch_free(self) -> bool:
        """Starts a step where none waits to land; returns whether one more could be."""
        hands, may_go_on = self._hands, False
        free = [
            instance
            for instance in self._all()
            if instance.is_open and instance.inner.landing is None
        ]
        hands.ask_for_pages(free)
        for instance in free:
            if hands.instances.get(instance.device) is not instance:
                continue  # lost or parked meanwhile
            is_launched = hands.guard(instance, partial(self._launch, instance))
            may_go_on |= bool(is_launched) and instance.inner.landing is None
        return may_go_on

    def _launch(self, instance: FleetInstance) -> bool:
        self._config.fault.check(instance.device, step=self.steps)
        is_launched = instance.inner.launch(self._times)
        if is_launched:
            self._hands.tally.launch(instance.device)
        return is_launched

    def _wait(self, *, most_s: float, has_work: bool) -> None:
        """Waits for the first result, or a message, as long as nothing else is due."""
        results = {
            instance.device: self._see(instance, instance.inner.landing)
            for instance in self._all()
            if instance.inner.landing is not None
        }
        if results and self._is_single:
            return  # it is waited for where it lands
        if self._hands.is_opening or any(each.awaits_pages for each in self._all()):
            most_s = min(most_s, LOOK_S)
        elif not results:
            most_s = min(most_s, LOOK_S if has_work else 0.0)
        if most_s > 0:
            self._times.begin()
            self._arrivals.wait(results, most_s=min(most_s, LATE_S))
            self._times.end(StepPhase.WAIT)

    def _bring_in(
        self,
        find: Callable[[FleetInstance], StepFrame | None],
        *,
        among: Sequence[FleetInstance],
    ) -> list[StepFrame]:
        """Returns what `find` brings in of instances; sees what became of it there."""
        hands, frames = self._hands, []
        for instance in among:
            frame = None
            if instance.is_open:
                frame = hands.guard(instance, partial(find, instance))
            if instance.device not in hands.instances:
                continue  # its step failed: what it would have said does not count
            if frame is not None:
                hands.see(frame)
                frames.append(frame)
            if not (instance.inner.ended or instance.is_watching):
                continue  # as in most steps
            for serial in instance.inner.ended:
                hands.forget(instance.requests[serial])
            hands.guard(instance, instance.look_around)
            instance.inner.ended.clear()
        return frames

    def _land_one(self, instance: FleetInstance) -> StepFrame | None:
        """Brings in a step that is over; the only device's, by waiting for it."""
        landing = instance.inner.landing
        if landing is None:
            return instance.inner.say_ends()
        if self._is_single or self._see(instance, landing).is_ready:
            self.patience.forget(instance)
            return instance.inner.land(self._times)
        if self._hands.can_lose(instance.device) and self.patience.look(
            instance, now_s=self._now_s
        ):
            logging.warning(
                "device %d gives no result; the others go on", instance.device
            )
        return instance.inner.say_ends()

    def _see(self, instance: FleetInstance, pending: Pending) -> Result:
        """Returns a result as it is seen from here, where a fault may hide it."""
        fault, device = self._config.fault, instance.device
        return fault.result(device, step=self.steps, real=pending)


def _hear(instance: FleetInstance) -> StepFrame | None:
    return instance.inner.hear()
