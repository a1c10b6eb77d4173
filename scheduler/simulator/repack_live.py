"""A fleet whose moves cost nothing packs everything anew at every epoch.

Between epochs requests arrive, grow and end here as under any policy: an arrival gets
the fullest device with room or a new one, a request that overflows its device is taken
to another at once. At the end of the epoch first fit decreasing packs all of them.
Nobody can do that; it shows what is left to gain.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.admission import admit
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec


class Repacker:
    """Answers like a machine, but moves nothing: requests are elsewhere at once."""

    def __init__(self, models: Mapping[ModelId, ModelSpec]) -> None:
        self._ledger = Ledger(models, look_s=0.0)
        self._decisions: list[plan.Decision] = []
        self._arrivals = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.Arrive: self._arrive,
            events.Grow: self._grow,
            events.Finish: self._finish,
            events.Tick: self._tick,
            events.DeviceAdded: self._device_added,
        }

    @property
    def wake_s(self) -> float:
        """Nobody ever waits."""
        return math.inf

    def step(self, event: events.Event, *, now_s: float | None = None) -> plan.Plan:
        """Takes one event; there are enough devices, and none is ever lost."""
        self._handlers[type(event)](event)
        decisions, self._decisions = tuple(self._decisions), []
        return plan.Plan(decisions=decisions)

    def _device_added(self, event: events.DeviceAdded) -> None:
        self._ledger.add_idle(event.device)

    def _arrive(self, event: events.Arrive) -> None:
        request = admit(event, ledger=self._ledger, serial=self._arrivals + 1)
        if isinstance(request, plan.Reject):
            self._decisions.append(request)
            return
        self._arrivals += 1
        device = self._best_fit(request)
        self._decisions.append(
            plan.Place(request=request.id, device=device, pages=request.pages)
        )

    def _grow(self, event: events.Grow) -> None:
        ledger = self._ledger
        request = ledger.requests[event.request]
        assert request.device is not None
        instance = ledger.instances[request.device]
        more = event.pages - request.pages
        if ledger.slack(instance) >= more:
            ledger.charge(instance, pages=more, rows=0)
            request.pages = event.pages
        else:
            ledger.settle(request, None)
            request.pages = event.pages
            self._best_fit(request)
            self._close_empty()

    def _finish(self, event: events.Finish) -> None:
        request = self._ledger.requests.pop(event.request)
        self._ledger.settle(request, None)
        self._close_empty()

    def _tick(self, event: events.Tick) -> None:
        ledger = self._ledger
        requests = list(ledger.requests.values())
        requests.sort(key=lambda request: (-request.pages, request.serial))
        for request in requests:
            ledger.settle(request, None)
        bins = list(ledger.instances.values())
        for request in requests:
            for instance in bins:
                if instance.model == request.model and ledger.fits(
                    instance, request.pages
                ):
                    ledger.settle(request, instance.device)
                    break
            else:
                bins.append(ledger.instances[self._best_fit(request)])
        self._close_empty()

    def _best_fit(self, request: RequestAccount) -> DeviceGroupId:
        """Settles a request on the fullest device with room, or on a new one."""
        ledger = self._ledger
        device = ledger.best_fit(request.model, request.pages)
        if device is None:
            device = ledger.next_idle()
            if device is None:
                raise ValueError("repack_live needs more devices: raise --max_devices")
            ledger.open(device, request.model)
            self._decisions.append(
                plan.Activate(
                    device=device, model=request.model, load_s=0.0, weights_bytes=0
                )
            )
        ledger.settle(request, device)
        return device

    def _close_empty(self) -> None:
        empty = [d for d, i in self._ledger.instances.items() if i.rows == 0]
        for device in empty:
            self._ledger.close(device, is_idle=True)
            self._decisions.append(plan.Park(device=device))
