"""Money is what the devices in use cost, each as long as it is open."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mell_jax.scheduler.ids import KindId
from mell_jax.scheduler.simulator.devices import Devices
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.window import Window

_MEAN = "devices_mean of "


@dataclass(slots=True, kw_only=True)
class _Open:
    """The open devices of one kind."""

    count: int = 0
    peak: int = 0
    since_s: float = 0.0
    device_s: float = 0.0  # in the window


@dataclass(slots=True, kw_only=True)
class MoneyMeter:
    """It counts the devices in use by kind; means are over the window."""

    window: Window
    devices: Sequence[Devices]
    epoch_s: "array[float]" = field(default_factory=lambda: array("d"))
    bound: "array[float]" = field(default_factory=lambda: array("d"))
    _open: dict[KindId, _Open] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._open = {each.kind: _Open() for each in self.devices}

    def change(self, kind: KindId, *, now_s: float, by: int) -> None:
        """So many devices more of a kind are open from now on, or fewer."""
        own = self._open[kind]
        self._pass(own, now_s)
        own.count += by
        own.peak = max(own.peak, own.count)

    def end(self, now_s: float) -> None:
        """The run is over."""
        for own in self._open.values():
            self._pass(own, now_s)

    def sample(self, now_s: float, *, bound: float) -> None:
        """One epoch: no fleet could serve for less than `bound` an hour."""
        self.epoch_s.append(now_s)
        self.bound.append(bound)

    def figures(self) -> dict[str, float]:
        """Every figure by its name; of each kind its mean and its peak of devices."""
        span = max(self.window.end_s - self.window.start_s, 1e-9)
        times = np.asarray(self.epoch_s)
        inside = (times >= self.window.start_s) & (times <= self.window.end_s)
        bounds = np.asarray(self.bound)[inside]
        paid = [
            each.price_per_hour * self._open[each.kind].device_s / span
            for each in self.devices
        ]
        counted = {
            "money_per_hour": math.fsum(paid),
            "money_bound_per_hour": float(bounds.mean()) if len(bounds) else 0.0,
        }
        for kind, own in self._open.items():
            counted[mean_of(kind)] = own.device_s / span
            counted[peak_of(kind)] = own.peak
        return counted

    def _pass(self, own: _Open, now_s: float) -> None:
        inside = min(now_s, self.window.end_s) - max(own.since_s, self.window.start_s)
        own.device_s += own.count * max(0.0, inside)
        own.since_s = now_s


def make_money_meter(settings: Settings, *, window: Window) -> MoneyMeter | None:
    """Returns a meter for a fleet whose devices have prices, None for another."""
    if not settings.devices:
        return None
    return MoneyMeter(window=window, devices=settings.devices)


def mean_of(kind: KindId) -> str:
    """Returns the name of the figure that is a kind's mean of devices in use."""
    return f"{_MEAN}{kind}"


def kind_of_mean(name: str) -> KindId | None:
    """Returns the kind whose mean a figure of that name is; None for other figures."""
    return KindId(name.removeprefix(_MEAN)) if name.startswith(_MEAN) else None


def peak_of(kind: KindId) -> str:
    """Returns the name of the figure that is a kind's most devices in use."""
    return f"devices_peak of {kind}"
