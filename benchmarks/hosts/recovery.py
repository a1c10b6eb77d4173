"""Measures how long clients wait when their host is killed.

    streams on hosts a, b, c --- kill -9 a ---> the last of a's streams goes on
                                    '-- recovery --'

What was lost is prefilled again elsewhere, which takes time by itself: as much as it
takes as many requests with prompts of that length, asked all at once beside the others.
That is measured in the same fleet before each kill.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.hosts.clients import Noted, following
from benchmarks.hosts.started import Started, serving_hosts, step_flags
from benchmarks.hosts.tokens import model_with_tokenizer, vocab_size
from mell_jax.bench.report import line
from mell_jax.bench.stats import median
from mell_jax.serving.loop import run_loop

HOSTS = ("a", "b", "c")
PROMPT_TOKENS = 100
EARLY_TOKENS = 32  # that every stream has when its host is killed
ANSWER_TOKENS = 600
IN_FLIGHT_S = 0.2  # what comes sooner after a kill was said before it
LOOK_S = 0.01
MOST_S = 60.0
SETTLE_S = 3.0  # from a host's word that it is there to its part of the work


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFigures:
    """The figures of each kill are seconds from a stream's last token to its next.

    Attributes:
      lost: streams that the killed host had, about.
      recovery_s: the longest silence of a stream at each kill.
      waits_s: the longest silence of every stream at each kill, sorted: those of
        streams that were lost stand out.
      prefill_s: from as many new requests to the first token of the last.
    """

    streams: int
    lost: int
    recovery_s: tuple[float, ...]
    waits_s: tuple[tuple[float, ...], ...]
    prefill_s: tuple[float, ...]
    beyond_prefill_s: float  # median


def measure_recovery(
    folder: Path, *, model: str, streams: int, kills: int, seed: int = 0
) -> RecoveryFigures:
    """Starts a fleet, and kills one of its hosts again and again.

    Args:
      folder: of files of the fleet.
      model: a directory, "demo", or "random:SHAPE".
      streams: that are open at a kill.
      kills: that are measured.
      seed: of prompts.

    Raises:
      RuntimeError: a process does not start, or a stream fails or does not go on.
    """
    rng = np.random.default_rng(seed)
    waits_s, prefill_s = [], []
    with model_with_tokenizer(model) as directory:
        flags = [f"--model={directory}", *step_flags(folder, rows=streams)]
        size = vocab_size(directory)
        with serving_hosts(folder / "fleet", names=HOSTS, flags=flags) as fleet:
            for _ in range(kills):
                prompts = _Prompts(rng, size)
                prefill_s.append(run_loop(_prefill(fleet, prompts, streams=streams)))
                joined = fleet.times_joined(HOSTS[0])
                waits_s.append(run_loop(_waits(fleet, prompts, streams=streams)))
                fleet.wait_joined(HOSTS[0], times=joined + 1)
                time.sleep(SETTLE_S)
    recovery_s = [max(waits) for waits in waits_s]
    beyond = [r - p for r, p in zip(recovery_s, prefill_s, strict=True)]
    return RecoveryFigures(
        streams=streams,
        lost=streams // len(HOSTS),
        recovery_s=tuple(recovery_s),
        waits_s=tuple(waits_s),
        prefill_s=tuple(prefill_s),
        beyond_prefill_s=median(beyond),
    )


def render_recovery(figures: RecoveryFigures) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"kill -9 of one of {len(HOSTS)} hosts with {figures.streams} streams, "
            f"medians of {len(figures.recovery_s)} kills",
            line("the longest silence of a stream, s", median(figures.recovery_s)),
            line("prefill of as much by itself, s", median(figures.prefill_s)),
            line("the difference, s", figures.beyond_prefill_s),
            line("the longest of all kills, s", max(figures.recovery_s)),
        )
    )


class _Prompts:
    """Makes prompts that have nothing in common."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._rng = rng
        self._size = size

    def draw(self, count: int, *, tokens: int) -> list[list[int]]:
        """Returns so many prompts."""
        drawn: list[list[int]] = self._rng.integers(
            1, self._size, (count, tokens)
        ).tolist()
        return drawn


async def _waits(
    fleet: Started, prompts: _Prompts, *, streams: int
) -> tuple[float, ...]:
    """Kills a host under load; returns how long each stream was silent, sorted."""
    asked = prompts.draw(streams, tokens=PROMPT_TOKENS)
    async with following(fleet.address, asked, tokens=ANSWER_TOKENS) as noted:
        await _until_all(noted, lambda each: each.tokens >= EARLY_TOKENS)
        pid = fleet.host(HOSTS[0])
        if pid is None:
            raise RuntimeError(f"host {HOSTS[0]} is not there: {fleet.text()[-2000:]}")
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        since_s = killed_s + IN_FLIGHT_S
        await _until_all(noted, lambda each: each.next_after(since_s) is not None)
        return tuple(sorted(each.silence_s(killed_s, since_s) for each in noted))


async def _prefill(fleet: Started, prompts: _Prompts, *, streams: int) -> float:
    """Returns how long it takes to compute as much as a host's end costs."""
    lost = streams // len(HOSTS)
    asked = prompts.draw(streams - lost, tokens=PROMPT_TOKENS)
    more = prompts.draw(lost, tokens=PROMPT_TOKENS + EARLY_TOKENS)
    async with following(fleet.address, asked, tokens=ANSWER_TOKENS) as noted:
        await _until_all(noted, lambda each: each.tokens >= EARLY_TOKENS)
        begin_s = time.monotonic()
        async with following(fleet.address, more, tokens=2) as new:
            await _until_all(new, lambda each: each.tokens >= 1)
            return max(each.at_s[0] for each in new) - begin_s


async def _until_all(noted: Sequence[Noted], is_so: Callable[[Noted], bool]) -> None:
    """Waits until something is so of all streams.

    Raises:
      RuntimeError: a stream has failed, or it takes too long.
    """
    end_s = time.monotonic() + MOST_S
    while not all(map(is_so, noted)):
        failed = [each.error for each in noted if each.error]
        if failed or time.monotonic() > end_s:
            raise RuntimeError(f"streams do not go on: {failed[:1]}")
        await asyncio.sleep(LOOK_S)
