"""Devices over time per policy with the lower bound, and utilisation below.

Needs the extra `plot`; matplotlib is loaded only when a plot is drawn.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.simulator.results.compare import REPACK, REPACK_LIVE, RunOutcome

POINTS = 240  # beyond, lines of several policies are a carpet
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a")

Array = npt.NDArray[np.float64]


def check_plot(path: Path) -> None:
    """Finds out before a long run whether `path` can be drawn.

    Raises:
      ValueError: matplotlib is not installed, or does not know the ending.
    """
    kinds = load_matplotlib(
        "matplotlib.backend_bases"
    ).FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in kinds:
        raise ValueError(f"--plot={path}: the name must end in one of {sorted(kinds)}")


def draw_plot(path: Path, *, outcomes: Sequence[RunOutcome], title: str) -> None:
    """Writes an image; the format follows the ending of `path`.

    Raises:
      ValueError: see `check_plot`.
    """
    check_plot(path)
    figure = load_matplotlib("matplotlib.figure").Figure(
        figsize=(11, 7), layout="constrained"
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 2])
    bin_s = 0.0
    for number, outcome in enumerate(outcomes):
        meter = outcome.meter
        style = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.3}
        if outcome.policy in (REPACK, REPACK_LIVE):
            style = {"color": "0.5" if outcome.policy == REPACK else "0.7"}
        times, devices, bin_s = binned(meter.epoch_s, meter.devices)
        label = f"{outcome.policy} ({outcome.figures['devices_mean']:.2f})"
        above.plot(times, devices, label=label, **style)
        times, used, _ = binned(meter.epoch_s, meter.utilization)
        below.plot(times, 100 * used, **style)
    last = outcomes[-1]
    times, bound, _ = binned(last.meter.epoch_s, last.meter.bound)
    label = f"lower bound, L2 ({last.figures['lower_bound_mean']:.2f})"
    above.plot(times, bound, "k:", linewidth=1.5, label=label, zorder=9)
    window = last.meter.window
    for axes in (above, below):
        axes.axvspan(window.start_s, window.end_s, color="0.96", zorder=0)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    above.set(ylabel="devices in use", ylim=(0, None))
    below.set(xlabel=_axis(bin_s), ylabel="utilisation (%)", ylim=(0, 100))
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def binned(
    times: Sequence[float], values: Sequence[float]
) -> tuple[Array, Array, float]:
    """Means of at most `POINTS` equal stretches [p] [p], and how long one is."""
    at, of = np.asarray(times, np.float64), np.asarray(values, np.float64)
    size = -(-max(1, len(at)) // POINTS)
    starts = np.arange(0, len(at), size)
    counts = np.diff(np.append(starts, len(at)))
    length_s = float(size * (at[1] - at[0])) if len(at) > 1 else 0.0
    if not len(at):
        return at, of, length_s
    means = [np.add.reduceat(array, starts) / counts for array in (at, of)]
    return means[0], means[1], length_s


def _axis(bin_s: float) -> str:
    return f"time (s), means of {bin_s:g} s; figures are means of the shaded time"


def load_matplotlib(name: str) -> Any:
    """Imports a module of matplotlib.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            "a picture needs matplotlib: pip install 'mell_jax[plot]'"
        ) from None
