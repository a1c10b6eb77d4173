"""A simulation measures means over a window and totals over the whole run."""

import math
from array import array
from dataclasses import dataclass, field

import numpy as np

from mell_jax.scheduler.simulator.latency import Latencies
from mell_jax.scheduler.simulator.losses import LossMeter
from mell_jax.scheduler.simulator.money import MoneyMeter
from mell_jax.scheduler.simulator.window import Window


@dataclass(slots=True, kw_only=True)
class RunMeter:
    """Counts while a simulation runs."""

    window: Window
    latencies: Latencies = field(default_factory=Latencies)
    money: MoneyMeter | None = None  # of devices of several kinds
    losses: LossMeter | None = None  # where devices are lost
    migrations: int = 0
    window_migrations: int = 0
    tokens_moved: int = 0
    window_tokens_moved: int = 0
    bytes_moved: float = 0.0
    tokens_recomputed: int = 0
    replays: int = 0
    deferrals: int = 0
    violations: int = 0
    preemptions: int = 0
    activations: int = 0
    rejected: int = 0
    served_requests: int = 0
    served_tokens: int = 0
    prefix_hit_tokens: int = 0  # of prompts, found where they were placed
    prefix_asked_tokens: int = 0
    decision_s: "array[float]" = field(default_factory=lambda: array("d"))
    wait_s: "array[float]" = field(default_factory=lambda: array("d"))
    pause_s: "array[float]" = field(default_factory=lambda: array("d"))
    epoch_s: "array[float]" = field(default_factory=lambda: array("d"))
    devices: "array[float]" = field(default_factory=lambda: array("d"))
    utilization: "array[float]" = field(default_factory=lambda: array("d"))
    bound: "array[float]" = field(default_factory=lambda: array("d"))
    device_s: float = 0.0  # devices in use, added up over the seconds of the window
    warm_device_s: float = 0.0  # of idle ones that are kept warm, likewise
    _peak: int = 0
    _since_s: float = 0.0
    _count: int = 0
    _warm_count: int = 0

    def count_devices(
        self, now_s: float, devices: int, *, warm_devices: int = 0
    ) -> None:
        """So many devices are in use from now on, and so many idle ones kept warm."""
        start = max(self._since_s, self.window.start_s)
        end = min(now_s, self.window.end_s)
        if end > start:
            self.device_s += self._count * (end - start)
            self.warm_device_s += self._warm_count * (end - start)
        self._since_s, self._count = now_s, devices
        self._warm_count = warm_devices
        self._peak = max(self._peak, devices)

    def is_inside(self, now_s: float) -> bool:
        return self.window.start_s <= now_s <= self.window.end_s

    def sample(
        self, now_s: float, *, devices: float, utilization: float, bound: float
    ) -> None:
        """One epoch."""
        self.epoch_s.append(now_s)
        self.devices.append(devices)
        self.utilization.append(utilization)
        self.bound.append(bound)

    def moved(
        self,
        now_s: float,
        tokens: int,
        *,
        link_bytes: float,
        is_replayed: bool = False,
    ) -> None:
        """A move of a request with `tokens` begins, as a copy or as a replay."""
        self.migrations += 1
        self.bytes_moved += link_bytes
        if is_replayed:
            self.replays += 1
            self.tokens_recomputed += tokens
        self.tokens_moved += tokens
        if self.is_inside(now_s):
            self.window_migrations += 1
            self.window_tokens_moved += tokens

    def paused(self, seconds: float) -> None:
        """A placed request has stood still for want of a page, if for any time."""
        if seconds > 0:
            self.pause_s.append(seconds)

    def summary(self, *, requests: int) -> dict[str, float]:
        """Every figure by its name.

        `migrations` and `tokens_moved` are of all moves begun, whether copied or
        replayed, so that they do not depend on links; `replays` says how many were
        replayed. `bytes_moved` is what links carry for them. `tokens_recomputed` is
        what was prefilled twice, by replays and after preemptions. `wait_*` is from the
        arrival to the start of the first prefill, `pause_*` how long placed requests
        stood still for want of a page. A deferral is a move that began an epoch late, a
        violation one that overdrew a link or its target's prefill. What callers feel
        stands in `latency.py`, what devices cost in `money.py`, what was lost, which
        is no preemption, in `losses.py`.
        """
        span = max(self.window.end_s - self.window.start_s, 1e-9)
        times = np.asarray(self.epoch_s)
        inside = (times >= self.window.start_s) & (times <= self.window.end_s)
        return {
            "devices_mean": self.device_s / span,
            "devices_peak": self._peak,
            "devices_warm_mean": self.warm_device_s / span,
            "utilization_mean": _mean(np.asarray(self.utilization)[inside]),
            "lower_bound_mean": _mean(np.asarray(self.bound)[inside]),
            "migrations": self.migrations,
            "migrations_per_request": self.migrations / max(1, requests),
            "migrations_per_s": self.window_migrations / span,
            "tokens_moved": self.tokens_moved,
            "bytes_moved": self.bytes_moved,
            "tokens_moved_per_s": self.window_tokens_moved / span,
            "tokens_recomputed": self.tokens_recomputed,
            "replays": self.replays,
            "deferrals": self.deferrals,
            "violations": self.violations,
            "preemptions": self.preemptions,
            "pauses": len(self.pause_s),
            "pause_s": math.fsum(self.pause_s),
            "pause_max_s": max(self.pause_s, default=0.0),
            "activations": self.activations,
            "rejected": self.rejected,
            "served_requests": self.served_requests,
            "served_tokens": self.served_tokens,
            "prefix_hit_tokens": self.prefix_hit_tokens,
            "prefix_hit_share": self.prefix_hit_tokens
            / max(1, self.prefix_asked_tokens),
            "wait_mean_s": _mean(np.asarray(self.wait_s)),
            "wait_p99_s": _quantile(np.asarray(self.wait_s), 0.99),
            "decision_us_p50": 1e6 * _quantile(np.asarray(self.decision_s), 0.5),
            "decision_us_p99": 1e6 * _quantile(np.asarray(self.decision_s), 0.99),
        } | self._more()

    def _more(self) -> dict[str, float]:
        money = self.money.figures() if self.money is not None else {}
        losses = self.losses.figures() if self.losses is not None else {}
        return self.latencies.figures() | money | losses


def _mean(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    return float(values.mean()) if len(values) else 0.0


def _quantile(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", level: float
) -> float:
    return float(np.quantile(values, level)) if len(values) else 0.0
