"""Fleets of few devices, where a constant loss does not hide; and devices for bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mell_jax.scheduler.simulator.report import Line
from mell_jax.scheduler.simulator.results.compare import REPACK

MOST_DEVICES = 1.03  # of `repack`
MOST_TOKENS = 0.45  # of `mell`
RIVALS = ("llumnix_consolidation", "load_balance", "best_fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallFleet:
    """One setting: every policy at its best headroom."""

    title: str
    is_chosen: bool  # constants of `consolidate` were chosen on it
    lines: Mapping[str, Line]  # by policy
    timed_devices: float  # of `consolidate` with bounded links

    def of_repack(self, policy: str) -> float:
        devices = self.lines[policy].figures["devices_mean"]
        return devices / max(1e-9, self.lines[REPACK].figures["devices_mean"])

    def of_mell(self, policy: str) -> float:
        """Tokens moved, of those that `mell` moves; infinite if it moves none."""
        tokens, whole = (
            self.lines[name].figures["tokens_moved"] for name in (policy, "mell")
        )
        return tokens / whole if whole else (1.0 if not tokens else float("inf"))

    @property
    def timed_of_repack(self) -> float:
        ideal = self.lines[REPACK].figures["devices_mean"]
        return self.timed_devices / max(1e-9, ideal)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One run."""

    policy: str
    price_s: float  # of a move, for `consolidate`
    devices: float  # of `repack`
    moved: float  # tokens moved for each token served


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Devices against bytes in one case."""

    title: str
    points: Sequence[CurvePoint]


def write_small(fleets: Sequence[SmallFleet]) -> str:
    """Two tables: what constants were chosen on, and what nobody had looked at."""
    parts = []
    for is_chosen, said in (
        (False, "Settings that no constant was chosen on:"),
        (True, "Settings that constants were chosen on:"),
    ):
        own = [fleet for fleet in fleets if fleet.is_chosen == is_chosen]
        if own:
            parts += [said, _table(own), _verdict(own)]
    return "\n\n".join(parts)


def _table(fleets: Sequence[SmallFleet]) -> str:
    lines = [
        "| setting | `repack` | `consolidate` | at 200 Gb/s | its tokens | wait p99 | "
        "`llumnix_consolidation` | its tokens | `load_balance` | `best_fit` | `mell` |",
        "| --- |" + " ---: |" * 10,
    ]
    for fleet in fleets:
        ideal = fleet.lines[REPACK].figures["devices_mean"]
        wait_s = fleet.lines["consolidate"].figures["wait_p99_s"]
        cells = [
            f"{ideal:.2f}",
            f"{fleet.of_repack('consolidate'):.3f}",
            f"{fleet.timed_of_repack:.3f}",
            f"{fleet.of_mell('consolidate'):.2f}",
            f"{wait_s:.2f} s",
            f"{fleet.of_repack(RIVALS[0]):.3f}",
            f"{fleet.of_mell(RIVALS[0]):.2f}",
            *(f"{fleet.of_repack(name):.3f}" for name in (*RIVALS[1:], "mell")),
        ]
        lines.append(f"| {fleet.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(fleets: Sequence[SmallFleet]) -> str:
    devices = [fleet.of_repack("consolidate") for fleet in fleets]
    tokens = [fleet.of_mell("consolidate") for fleet in fleets]
    few = sum(ratio <= MOST_DEVICES + 5e-4 for ratio in devices)
    cheap = sum(ratio <= MOST_TOKENS + 5e-3 for ratio in tokens)
    ahead = sum(
        fleet.of_repack("consolidate") <= min(map(fleet.of_repack, RIVALS))
        for fleet in fleets
    )
    fewer = sum(
        fleet.of_mell("consolidate") <= fleet.of_mell(RIVALS[0]) for fleet in fleets
    )
    return (
        f"`consolidate` needs {fmean(devices):.3f} of `repack` on average, "
        f"{max(devices):.3f} at worst, and {fmean(tokens):.2f} of `mell`'s tokens, "
        f"{max(tokens):.2f} at worst. It keeps within {MOST_DEVICES} in {few} of "
        f"{len(fleets)}, within {MOST_TOKENS} of `mell`'s tokens in {cheap}; it needs "
        f"no more devices than any baseline in {ahead}, and moves no more than "
        f"`llumnix_consolidation` in {fewer}."
    )
