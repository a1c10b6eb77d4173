"""Figures of several policies as a table of at most 100 columns, or as Markdown."""

from collections.abc import Sequence

from mell_jax.scheduler.simulator.compare import Outcome

COLUMNS = (  # heading, figure, format
    ("devices", "devices_mean", "{:.2f}"),
    ("peak", "devices_peak", "{:.0f}"),
    ("util", "utilization_mean", "{:.1%}"),
    ("moves", "migrations", "{:.0f}"),
    ("/req", "migrations_per_request", "{:.2f}"),
    ("tokens", "tokens_moved", "{}"),
    ("preempt", "preemptions", "{:.0f}"),
    ("opened", "activations", "{:.0f}"),
    ("reject", "rejected", "{:.0f}"),
    ("wait99", "queue_wait_p99_s", "{:.1f}s"),
    ("us99", "decision_us_p99", "{:.0f}"),
)


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A heading and one row for each outcome."""
    head = ["policy", *(heading for heading, _, _ in COLUMNS)]
    head.insert(2, "/bound")
    table = [head]
    for outcome in outcomes:
        figures = outcome.figures
        cells = [
            form.format(count(figures[name]) if form == "{}" else figures[name])
            for _, name, form in COLUMNS
        ]
        bound = figures["lower_bound_mean"]
        cells.insert(1, f"{figures['devices_mean'] / bound:.3f}" if bound else "-")
        knob = f" {outcome.headroom:.0%}" if outcome.headroom else ""
        table.append([outcome.policy + knob, *cells])
    return table


def count(value: float) -> str:
    """A count in at most five characters: 950, 12k, 3.4M."""
    for limit, divisor, suffix in ((1e4, 1, ""), (1e7, 1e3, "k"), (1e10, 1e6, "M")):
        if value < limit:
            return f"{value / divisor:.0f}{suffix}"
    return f"{value / 1e9:.0f}G"


def table(outcomes: Sequence[Outcome]) -> str:
    """Aligned columns for a terminal."""
    lines = rows(outcomes)
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        " ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The same as a Markdown table."""
    lines = rows(outcomes)
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]
    )
