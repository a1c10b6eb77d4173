"""Probes ask devices that have no work whether they still live, beside busy ones.

Nobody waits for the answers: they are looked at between the steps of the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, final

from mell_jax.engine.fleet.arrivals import Arrivals, Result, wait_for
from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.fleet.patience import LATE_S, Patience
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.device import Pending

Found = TypeVar("Found")
PROBE_S = 5.0
"""Between two probes of a device without work."""


See = Callable[[FleetInstance, Pending], Result]


class Owner(Protocol):
    """Probes need this much of whoever has the instances."""

    @property
    def instances(self) -> Mapping[DeviceGroupId, FleetInstance]: ...

    def guard(
        self, instance: FleetInstance, do: Callable[[], Found]
    ) -> Found | None: ...

    def can_lose(self, device: DeviceGroupId) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    instance: FleetInstance
    result: Result
    since_s: float


@final
class Probes:
    """Probes are under way to instances of one fleet.

    Args:
      owner: has the instances, and fences devices.
      patience: says how long an answer may take.
      arrivals: waits for answers, where nothing else is to be done.
      see: returns a device's answer as it is seen from here.
      now_s: the time at the start.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        patience: Patience,
        arrivals: Arrivals,
        see: See,
        now_s: float,
    ) -> None:
        self._owner = owner
        self._patience = patience
        self._arrivals = arrivals
        self._see = see
        self._probes: dict[DeviceGroupId, _Probe] = {}
        self._sent_s = now_s

    def look(self, now_s: float) -> None:
        """Sends probes when they are due, and fences devices that fail one."""
        if now_s - self._sent_s >= PROBE_S:
            self._sent_s = now_s
            for instance in list(self._owner.instances.values()):
                is_idle = instance.is_open and not instance.inner.has_work
                if is_idle and instance.device not in self._probes:
                    self._send(instance, now_s=now_s)
        for probe in list(self._probes.values()):
            self._look_at(probe, now_s=now_s)

    def ask_all(self, now_s: float) -> None:
        """Probes every device that is open, and waits until one would be late."""
        for instance in list(self._owner.instances.values()):
            if instance.is_open:
                self._send(instance, now_s=now_s)
        for probe in list(self._probes.values()):
            device = probe.instance.device
            is_alone = not self._owner.can_lose(device)
            if is_alone or wait_for(
                self._arrivals, probe.result, device=device, most_s=LATE_S
            ):
                self._end(probe)

    def _send(self, instance: FleetInstance, *, now_s: float) -> None:
        pending = self._owner.guard(instance, instance.inner.worker.probe)
        if pending is not None:
            self._probes[instance.device] = _Probe(
                instance=instance, result=self._see(instance, pending), since_s=now_s
            )

    def _look_at(self, probe: _Probe, *, now_s: float) -> None:
        if probe.result.is_ready:
            self._end(probe)
        elif self._is_over(probe):
            del self._probes[probe.instance.device]
        elif self._owner.can_lose(probe.instance.device):
            check = partial(self._patience.check, probe.since_s, now_s=now_s)
            self._owner.guard(probe.instance, check)

    def _end(self, probe: _Probe) -> None:
        """Hears an answer, which may be an error; waits for it."""
        del self._probes[probe.instance.device]
        if not self._is_over(probe):
            self._owner.guard(probe.instance, probe.result.wait)

    def _is_over(self, probe: _Probe) -> bool:
        """Returns whether the instance was parked or fenced meanwhile."""
        device = probe.instance.device
        return self._owner.instances.get(device) is not probe.instance
