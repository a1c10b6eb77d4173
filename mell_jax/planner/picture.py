"""Draws an answer: what each fleet costs, and the devices in use over the trace.

Needs the extra `plot`; matplotlib is loaded only when a picture is drawn.
"""

from pathlib import Path
from typing import Any

from mell_jax.planner.question import Answer, Offer, Payment, Side
from mell_jax.planner.report import sorted_offers
from mell_jax.scheduler.simulator.results.plot import (
    COLOURS,
    check_plot,
    load_matplotlib,
)

COLOUR = {Side.MOVING: COLOURS[0], Side.PINNED: COLOURS[1]}


def draw_answer(path: Path, *, answer: Answer) -> None:
    """Writes a picture; the format follows the ending of `path`.

    Raises:
      ValueError: matplotlib is not installed, or does not know the ending.
    """
    check_plot(path)
    offers = sorted_offers(answer)
    figure = load_matplotlib("matplotlib.figure").Figure(
        figsize=(11, 1.6 + max(2.4, 0.32 * len(offers))), layout="constrained"
    )
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _draw_money(left, answer=answer, offers=offers)
    _draw_use(right, answer=answer)
    question = answer.question
    figure.suptitle(
        f"{question.workload.name}, {question.shape.name}: TTFT <= "
        f"{1e3 * question.slo.ttft_s:g} ms, TPOT <= {1e3 * question.slo.tpot_s:g} ms",
        fontsize=11,
    )
    parameters = load_matplotlib("matplotlib").rcParams
    parameters["svg.hashsalt"] = "mell"  # the same answer gives the same file
    parameters["svg.fonttype"] = "none"
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)


def _draw_money(panel: Any, *, answer: Answer, offers: list[Offer]) -> None:
    """Bars of all offers of the busiest stretch; the inner part is what is in use."""
    for row, offer in enumerate(reversed(offers)):
        colour = COLOUR[answer.question.side_of(offer.trial.policy)]
        owned = offer.price_per_hour(Payment.OWNED)
        panel.barh(row, owned, color=colour, alpha=0.35, height=0.7)
        panel.barh(row, offer.price_per_hour(Payment.USED), color=colour, height=0.7)
        panel.annotate(
            f" {owned:.2f}", (owned, row), va="center", ha="left", fontsize=8
        )
    labels = [f"{offer.name}, {offer.trial.policy}" for offer in reversed(offers)]
    panel.set_yticks(range(len(offers)), labels, fontsize=8)
    panel.margins(x=0.15)
    panel.set_xlabel("$/h over the busiest stretch; dark: of what is in use")
    panel.spines[["top", "right"]].set_visible(False)


def _draw_use(panel: Any, *, answer: Answer) -> None:
    for side, offer in answer.best.items():
        trial = offer.trial
        minutes = [second / 60 for second in trial.times_s]
        panel.plot(
            minutes,
            trial.instances,
            color=COLOUR[side],
            linewidth=1.3,
            label=f"{offer.name} {side.value}, {offer.devices_in_use:.2f} in use",
        )
        panel.axhline(
            sum(trial.fleet), color=COLOUR[side], linewidth=0.8, linestyle=":"
        )
    panel.set(xlabel="minutes; dotted: all there are", ylabel="instances in use")
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", color="0.9")
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0)
    if answer.best:
        panel.legend(frameon=False, fontsize=8, loc="lower right")
