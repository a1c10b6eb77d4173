"""`mell-top` looks inside a running fleet, from the metrics of its server.

    mell-top --address=127.0.0.1:8000    # until Ctrl-C; --once for one picture

Text becomes `Numbers`, and two of these with the time between them become a picture,
both without looking at anything else.
"""

import argparse
import http.client
import math
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

TIMEOUT_S = 5.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MOST_MOVES = 8
KINDS = ("used", "reserved", "free")
BAR = 30  # characters
AWAY_S = 5.0  # a controller of several hosts tells of itself every half second

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The metrics of one scrape are kept by name."""

    samples: Mapping[str, Sequence[Sample]]

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Returns the samples of `mell:NAME` that have these labels."""
        return [
            (found, value)
            for found, value in self.samples.get(f"mell:{name}", ())
            if labels.items() <= found.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.of(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Returns sums by the value of one label."""
        sums: dict[str, float] = {}
        for found, value in self.of(name, **labels):
            sums[found[label]] = sums.get(found[label], 0.0) + value
        return sums

    def quantile(self, name: str, share: float) -> float:
        """Returns a quantile of a histogram, linear within a bucket; NaN if empty."""
        counts = self.by(f"{name}_bucket", "le")
        edges = sorted((float(le), count) for le, count in counts.items())
        if not edges or not edges[-1][1]:
            return math.nan
        wanted = share * edges[-1][1]
        for (low, below), (high, count) in pairwise([(0.0, 0.0), *edges]):
            if count >= wanted and count > below:
                if math.isinf(high):
                    return low
                return low + (high - low) * (wanted - below) / (count - below)
        raise AssertionError(f"{wanted} of {edges}")


def parse(text: str) -> Numbers:
    """Reads the metrics of a scrape.

    Raises:
      ValueError: it is something else.
    """
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    if not any(name.startswith("mell:") for name in samples):
        raise ValueError("these are no metrics of mell-serve")
    return Numbers(samples=samples)


def picture(
    now: Numbers, *, before: Numbers | None, elapsed_s: float, trouble: str = ""
) -> RenderableType:
    """Returns what a terminal of 80 columns shows.

    Args:
      before: an earlier scrape of the same server, for what is per second; None: none.
      elapsed_s: between the two.
      trouble: why `now` is not of now; empty when all is well.
    """

    def rate(name: str, *, unit: float = 1.0, **labels: str) -> str:
        if before is None or not (elapsed_s > 0):
            return "-"
        grown = now.total(name, **labels) - before.total(name, **labels)
        # It falls when the server was started anew.
        return f"{max(grown, 0.0) / elapsed_s / unit:.1f}"

    parts: list[RenderableType] = [_head(now, trouble=trouble)]
    if now.of("devices"):
        parts += [_bars(now), _moves(now, before=before)]
    parts.append(_rates(now, rate=rate))
    return Group(*parts)


def _head(now: Numbers, *, trouble: str) -> Text:
    line = Text("mell-top  ", style="bold")
    models = {labels["model_name"] for labels, _ in now.of("prompt_tokens_total")}
    line.append(", ".join(sorted(models)), style="cyan")
    if now.of("devices"):
        used, all_ = now.total("devices_in_use"), now.total("devices")
        line.append(f"  {used:.0f} of {all_:.0f} devices in use, lower bound ")
        line.append(f"{now.total('devices_lower_bound'):.0f}")
        hosts = len({labels.get("host") for labels, _ in now.of("instance_state")})
        if now.of("controller_age_seconds"):
            line.append(f", {hosts} host{'s' if hosts != 1 else ''}")
        if (age_s := now.total("controller_age_seconds")) >= AWAY_S:
            line.append(
                "\nthe controller is away: places and moves are those of "
                f"{age_s:.0f} s ago",
                style="bold yellow",
            )
    if trouble:
        line.append(f"\n{trouble}", style="bold red")
    elif not now.total("serving"):
        line.append("  takes no requests", style="bold yellow")
    return line


def _bars(now: Numbers) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("device", justify="right")
    table.add_column("█ used ▒ reserved · free", width=BAR)
    for name in ("used", "resv", "free", "rows", "wait", "stop"):
        table.add_column(name, justify="right")
    states = [labels for labels, value in now.of("instance_state") if value]
    for labels in sorted(states, key=_order):
        own = {name: labels[name] for name in ("host", "device") if name in labels}
        device, state = "/".join(own.values()), labels["state"]
        if state not in ("serving", "opening"):
            style = "bold red" if state == "lost" else "dim"
            table.add_row(device, Text(state, style=style))
            continue
        pages = now.by("instance_pages", "kind", **own)
        held, counts = [pages.get(kind, 0.0) for kind in KINDS], []
        for kind in ("running", "waiting", "paused"):
            counts.append(now.total(f"instance_requests_{kind}", **own))
        table.add_row(device, _bar(held), *(f"{value:.0f}" for value in held + counts))
    return table


def _order(labels: Mapping[str, str]) -> tuple[str, int]:
    return labels.get("host", ""), int(labels["device"])


def _bar(held: Sequence[float]) -> Text:
    """Returns a bar of `BAR` cells; ends are rounded, so that they always add up."""
    whole, bar, seen, at = max(sum(held), 1.0), Text(), 0.0, 0
    for value, cell, style in zip(held, "█▒·", ("green", "yellow", "dim"), strict=True):
        seen += value
        end = round(BAR * seen / whole)
        bar.append(cell * (end - at), style=style)
        at = end
    return bar


def _moves(now: Numbers, *, before: Numbers | None) -> Text:
    """Returns the moves at this moment, and those that ended since the last one."""
    under_way = [
        f"{_arrow(labels)} {count:.0f} {labels['mode'] or 'request'} {labels['stage']}"
        for labels, count in now.of("requests_moving")
    ]
    name = "migrations_between_total"
    arrived = [
        f"{_arrow(labels)} {grown:.0f}"
        for labels, count in (now.of(name) if before is not None else ())
        if before is not None and (grown := count - before.total(name, **labels)) > 0
    ]
    text = Text(f"moving  {_few(under_way)}", style="yellow")
    return text.append(f"\nmoved   {_few(arrived)}")


def _arrow(labels: Mapping[str, str]) -> str:
    return f"{labels['source']}→{labels['target']}"


def _few(parts: list[str]) -> str:
    more = f" and {len(parts) - MOST_MOVES} more" if len(parts) > MOST_MOVES else ""
    return (", ".join(sorted(parts)[:MOST_MOVES]) or "-") + more


def _rates(now: Numbers, *, rate: Callable[..., str]) -> Text:
    running = now.total("num_requests_running")
    waiting = now.total("num_requests_waiting")
    lines = [
        f"requests  {running:.0f} running, {waiting:.0f} waiting, "
        f"{rate('generation_tokens_total')} tokens/s out, "
        f"{rate('prompt_tokens_total')} in",
        f"latency   first token {_pair(now, 'time_to_first_token_seconds')}, "
        f"between tokens {_pair(now, 'inter_token_latency_seconds')}",
    ]
    if now.of("devices"):
        kinds = now.by("migrations_total", "mode", outcome="committed")
        moves = ", ".join(
            f"{rate('migrations_total', mode=mode, outcome='committed')} {mode}"
            for mode in sorted(kinds)
        )
        sent = rate("migration_bytes_total", unit=1e6)
        lines += [
            f"moves/s   {moves}, {sent} MB/s, {sum(kinds.values()):.0f} so far, "
            f"{now.total('migrations_total', outcome='aborted'):.0f} called off",
            f"downtime  {_downtime(now)} (p50 / p99, since the start)",
        ]
    return Text("\n".join(lines))


def _downtime(now: Numbers) -> str:
    seconds = _pair(now, "migration_stall_seconds")
    if not now.of("migration_downtime_steps_bucket"):
        return seconds  # steps of several hosts are not to be compared
    steps = _pair(now, "migration_downtime_steps", unit=1, sign="steps")
    return f"{seconds}, {steps}"


def _pair(now: Numbers, name: str, *, unit: float = 1e-3, sign: str = "ms") -> str:
    values = [now.quantile(name, share) / unit for share in (0.5, 0.99)]
    if sign == "steps":  # there are no parts of steps
        values = [value if math.isnan(value) else math.ceil(value) for value in values]
    shown = ("-" if math.isnan(value) else f"{value:.3g}" for value in values)
    return f"{' / '.join(shown)} {sign}"


def make_opener(*, token: str = "", tls_ca: str = "") -> urllib.request.OpenerDirector:
    """Opens URLs without proxies.

    Args:
      token: shown to the server, when there is one.
      tls_ca: file with the authorities of https servers; empty for the system's.

    Raises:
      OSError: the file cannot be read.
    """
    context = ssl.create_default_context(cafile=tls_ca or None)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    if token:
        opener.addheaders = [("authorization", f"Bearer {token}")]
    return opener


def fetch(
    address: str, *, opener: urllib.request.OpenerDirector = _DIRECTLY
) -> Numbers:
    """Asks a server, host:port or a URL, for its metrics.

    Raises:
      ConnectionError: nobody answers at `address`, or not with metrics.
    """
    url = f"{address if '://' in address else f'http://{address}'}/metrics"
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return parse(answer.read().decode())
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ConnectionError(f"no metrics at {url}: {reason}") from error


def print_once(
    address: str,
    *,
    interval_s: float,
    console: Console,
    opener: urllib.request.OpenerDirector = _DIRECTLY,
) -> None:
    """Prints one picture of two scrapes.

    Raises:
      ConnectionError: no metrics can be had.
    """
    before, start_s = fetch(address, opener=opener), time.monotonic()
    time.sleep(interval_s)
    now, end_s = fetch(address, opener=opener), time.monotonic()
    console.print(picture(now, before=before, elapsed_s=end_s - start_s))


def watch(
    address: str,
    *,
    interval_s: float,
    console: Console,
    opener: urllib.request.OpenerDirector = _DIRECTLY,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Shows a picture and makes it anew at every interval, until Ctrl-C."""
    now: Numbers | None = None
    before: Numbers | None = None
    now_s = before_s = time.monotonic()
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            trouble = ""
            try:
                found, found_s = fetch(address, opener=opener), time.monotonic()
                before, before_s, now, now_s = now, now_s, found, found_s
            except ConnectionError as error:
                trouble = f"{error}; waiting for it"
                before = None
            seen: RenderableType = Text(trouble, style="bold red")
            if now is not None:
                seen = picture(
                    now, before=before, elapsed_s=now_s - before_s, trouble=trouble
                )
            live.update(seen, refresh=True)
            pause(interval_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    flags = argparse.ArgumentParser(prog="mell-top", description="Looks into a fleet.")
    text = (
        "metrics are there: host:port of the server's --http_port, or https://host:port"
    )
    flags.add_argument("--address", default="127.0.0.1:8000", help=text)
    flags.add_argument("--once", action="store_true", help="print one picture and end")
    flags.add_argument(
        "--interval_s",
        type=float,
        default=1.0,
        help="so many seconds pass between looks",
    )
    text = "this file holds a token with the right 'metrics'"
    flags.add_argument("--token_file", type=Path, help=text)
    text = "this file has the authorities that may have signed the server's certificate"
    flags.add_argument("--tls_ca", default="", help=text)
    asked = flags.parse_args(argv)
    if not (0 < asked.interval_s <= 3600):
        flags.error(f"interval_s must be from 0 to 3600, got {asked.interval_s}")
    console = Console(highlight=False)
    look = print_once if asked.once or not console.is_terminal else watch
    try:
        token = asked.token_file.read_text().strip() if asked.token_file else ""
        opener = make_opener(token=token, tls_ca=asked.tls_ca)
        look(
            asked.address,
            interval_s=asked.interval_s,
            console=console,
            opener=opener,
        )
    except OSError as error:  # ConnectionError is one
        print(f"mell-top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
