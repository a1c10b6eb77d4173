"""Devices over time per policy with the lower bound, and utilisation below.

Needs the extra `plot`; matplotlib is loaded only when a plot is drawn.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from mell_jax.scheduler.simulator.compare import Outcome


def draw_plot(path: Path, *, outcomes: Sequence[Outcome], title: str) -> None:
    """Writes an image; the format follows the ending of `path`.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise ValueError(
            "--plot needs matplotlib: pip install 'mell_jax[plot]'"
        ) from None
    figure = figure_module.Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for outcome in outcomes:
        meter = outcome.meter
        label = f"{outcome.policy} ({outcome.figures['devices_mean']:.2f})"
        above.plot(meter.epoch_s, meter.devices, drawstyle="steps-post", label=label)
        below.plot(meter.epoch_s, [100 * value for value in meter.utilization])
    last = outcomes[-1].meter
    above.plot(last.epoch_s, last.bound, "k:", label="lower bound (L2)")
    above.set(title=title, ylabel="devices in use", ylim=(0, None))
    above.legend()
    below.set(xlabel="time (s)", ylabel="utilisation (%)", ylim=(0, 100))
    figure.savefig(path, dpi=120)
