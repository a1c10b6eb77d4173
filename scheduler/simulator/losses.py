"""Devices are lost at a rate, and what they held is computed again elsewhere.

The seconds at which a device would be lost are drawn for it alone, so they are the same
whatever a policy does: one that is idle then is nobody's loss. A lost device can be had
again after its repair.
"""

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.settings import Settings

HOUR_S = 3600.0


def draw_losses(
    device: DeviceGroupId, *, per_hour: float, seed: int
) -> Iterator[float]:
    """Yields the seconds at which a device is lost if it is in use; a Poisson process.

    Args:
      per_hour: losses in an hour of use, > 0.
    """
    rng = np.random.default_rng([seed, device])
    at_s = 0.0
    while True:
        at_s += float(rng.exponential(HOUR_S / per_hour))
        yield at_s


@dataclass(slots=True, kw_only=True)
class LossMeter:
    """It counts what was lost, and how long those requests waited."""

    devices: int = 0
    requests: int = 0
    tokens: int = 0
    wait_s: "array[float]" = field(default_factory=lambda: array("d"))

    def figures(self) -> dict[str, float]:
        """Every figure by its name.

        `lost_tokens` had been computed for the `lost_requests` and are computed again;
        their waits are from the loss to the start of the prefill elsewhere.
        """
        waits = np.asarray(self.wait_s)
        return {
            "losses": self.devices,
            "lost_requests": self.requests,
            "lost_tokens": self.tokens,
            "loss_wait_mean_s": math.fsum(self.wait_s) / max(1, len(waits)),
            "loss_wait_p99_s": float(np.quantile(waits, 0.99)) if len(waits) else 0.0,
            "loss_wait_max_s": max(self.wait_s, default=0.0),
        }


class Losses:
    """The losses of a run: when they are due, and what they came to.

    Args:
      lose: is called with a device whenever it would be lost.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agenda: Agenda,
        lose: Callable[[DeviceGroupId], None],
    ) -> None:
        self._agenda = agenda
        self._lose = lose
        self._lost_s: dict[RequestId, float] = {}
        self._meter = LossMeter()
        self._times: dict[DeviceGroupId, Iterator[float]] = {}
        for device, own in settings.fleet().items():
            per_hour = own.losses_per_hour
            if per_hour is None:
                per_hour = settings.losses_per_hour
            if per_hour > 0:
                seed = settings.loss_seed
                self._times[device] = draw_losses(device, per_hour=per_hour, seed=seed)
                self._note_next(device)

    @property
    def meter(self) -> LossMeter | None:
        """Returns what was counted; None where nothing is ever lost."""
        return self._meter if self._times else None

    def note_device(self, device: DeviceGroupId) -> None:
        """A device that was in use is lost."""
        self._meter.devices += 1

    def note_request(self, request: RequestId, *, tokens: int) -> None:
        """A request is lost with its device, which had computed so many tokens."""
        self._meter.requests += 1
        self._meter.tokens += tokens
        self._lost_s[request] = self._agenda.now_s

    def note_place(self, request: RequestId, *, start_s: float) -> None:
        """A request has a place again, where its prefill can start."""
        lost_s = self._lost_s.pop(request, None)
        if lost_s is not None:
            self._meter.wait_s.append(start_s - lost_s)

    def _note_next(self, device: DeviceGroupId) -> None:
        self._agenda.note(next(self._times[device]), self._fall_due, device)

    def _fall_due(self, device: DeviceGroupId, number: int) -> None:
        self._note_next(device)
        self._lose(device)
