"""The picture of the results page: devices against bytes, ours and every baseline's."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mell_jax.scheduler.simulator.results.compare import DEFAULT
from mell_jax.scheduler.simulator.results.plot import COLOURS, load_matplotlib
from mell_jax.scheduler.simulator.results.small import Curve

COLUMNS = 3
ORDER = (
    "consolidate",
    "mell",
    "llumnix_consolidation",
    "load_balance",
    "best_fit",
    "worst_fit",
    "reserve_peak",
)
MARKS = ("o", "s", "^", "v", "D", "P", "X")
MOST_SHOWN = 1.5  # of `repack`: beyond, a baseline stands at the edge


def draw_curves(path: Path, *, curves: Sequence[Curve]) -> None:
    """Writes one panel for each case; the format follows the ending of `path`.

    Raises:
      ValueError: matplotlib is not installed.
    """
    rows = -(-len(curves) // COLUMNS)
    figure = load_matplotlib("matplotlib.figure").Figure(
        figsize=(4 * COLUMNS, 3.2 * rows + 0.6), layout="constrained"
    )
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, curve in zip(panels, curves, strict=False):
        _draw(panel, curve)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    parameters = load_matplotlib("matplotlib").rcParams
    parameters["svg.hashsalt"] = "mell"  # the same figures give the same file
    parameters["svg.fonttype"] = "none"
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)


def _draw(panel: Any, curve: Curve) -> None:
    for number, policy in enumerate(ORDER):
        points = sorted(
            (p for p in curve.points if p.policy == policy), key=lambda p: p.moved
        )
        style = {"color": COLOURS[number], "marker": MARKS[number], "markersize": 4}
        panel.plot(
            [point.moved for point in points],
            [min(point.devices, MOST_SHOWN) for point in points],
            label=policy,
            linewidth=1.6 if policy == "consolidate" else 0.5,
            zorder=5 if policy == "consolidate" else 3,
            **style,
        )
        for point in points:
            if policy == "consolidate" and math.isclose(
                point.price_s, DEFAULT.move_price_s
            ):
                panel.plot(
                    [point.moved],
                    [point.devices],
                    marker="o",
                    markersize=9,
                    fillstyle="none",
                    color=COLOURS[number],
                )
    panel.axhline(1.0, color="0.6", linewidth=0.8)
    panel.set_title(curve.title, fontsize=8)
    panel.set_xlabel("tokens moved / token served", fontsize=8)
    panel.set_ylabel("devices / repack", fontsize=8)
    panel.set_xscale("symlog", linthresh=0.05)
    panel.set_ylim(0.95, MOST_SHOWN + 0.02)
    panel.set_xlim(left=0)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
