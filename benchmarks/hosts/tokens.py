"""Measures the tokens per second of a fleet of two hosts beside two separate servers.

    fleet      clients -> head -> hosts a, b       each host on a core of its own
    separate   clients -> server 1, server 2       each server on a core of its own

The four engines are there all the time, and the two sides take turns under the same
load. Head, controller and clients have both cores; a server by itself talks to its
clients from its own.
"""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosts.clients import Load, Shape
from benchmarks.hosts.started import Started, pin, serving, serving_hosts
from mell_jax.bench.report import line
from mell_jax.bench.shapes import RANDOM, model_directory
from mell_jax.bench.stats import median
from mell_jax.engine.build import demo_directory
from mell_jax.serving.loop import run_loop

HOSTS = ("a", "b")
WARM_UP_S = 5.0
PROMPT_TOKENS, ANSWER_TOKENS = 64, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensFigures:
    """Both sides gave so many tokens per second, turn by turn."""

    streams: int
    fleet_tokens_per_s: tuple[float, ...]
    separate_tokens_per_s: tuple[float, ...]
    ratios: tuple[float, ...]
    ratio: float  # of medians: of the ratios of pairs


def measure_tokens(
    folder: Path,
    *,
    model: str,
    streams: int,
    seconds: float,
    turns: int,
    seed: int = 0,
) -> TokensFigures:
    """Starts both sides, and has them take turns.

    Args:
      folder: of files of the servers.
      model: a directory, "demo", or "random:SHAPE".
      streams: that are open at any time, in all; an even number.
      seconds: that count, of each turn.
      turns: of each side.
      seed: of what is asked for.

    Raises:
      RuntimeError: a server does not start, or fails a stream.
    """
    rates: dict[str, list[float]] = {"fleet": [], "separate": []}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(model_with_tokenizer(model))
        sides = _start(stack, folder, directory=directory, rows=streams // 2)
        shape = Shape(
            prompt_tokens=PROMPT_TOKENS,
            answer_tokens=ANSWER_TOKENS,
            vocab_size=vocab_size(directory),
        )
        for turn in range(turns):
            for name, side in sides.items():
                loads = [
                    Load(
                        each.address,
                        streams=streams // len(side),
                        shape=shape,
                        seed=seed + turn,
                    )
                    for each in side
                ]
                rates[name].append(run_loop(_rate(loads, seconds=seconds)))
    fleet, separate = rates["fleet"], rates["separate"]
    ratios = [one / other for one, other in zip(fleet, separate, strict=True)]
    return TokensFigures(
        streams=streams,
        fleet_tokens_per_s=tuple(fleet),
        separate_tokens_per_s=tuple(separate),
        ratios=tuple(ratios),
        ratio=median(ratios),
    )


def render_tokens(figures: TokensFigures) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{figures.streams} streams, medians of {len(figures.ratios)} turns",
            line("a fleet of two hosts, tokens/s", median(figures.fleet_tokens_per_s)),
            line("two servers, tokens/s", median(figures.separate_tokens_per_s)),
            line("fleet / separate", figures.ratio),
        )
    )


@contextlib.contextmanager
def model_with_tokenizer(model: str) -> Iterator[Path]:
    """Yields the directory of a model; a random one has the demo model's tokenizer."""
    with model_directory(model) as directory:
        if model.startswith(RANDOM):  # clients send and get ids, but servers need one
            shutil.copy(demo_directory() / "tokenizer.json", directory)
        yield directory


def vocab_size(directory: Path) -> int:
    """Returns how many tokens a model knows."""
    return int(json.loads((directory / "config.json").read_text())["vocab_size"])


def _start(
    stack: contextlib.ExitStack, folder: Path, *, directory: Path, rows: int
) -> dict[str, list[Started]]:
    flags = [
        f"--model={directory}",
        f"--max_rows={rows}",
        f"--compilation_cache_dir={folder / 'compiled'}",
        "--policy=load_balance",
    ]
    fleet = stack.enter_context(
        serving_hosts(folder / "fleet", names=HOSTS, flags=flags)
    )
    servers = [
        stack.enter_context(serving(folder / f"server{core}", flags=flags))
        for core in range(len(HOSTS))
    ]
    for core, name in enumerate(HOSTS):
        host = fleet.host(name)
        assert host is not None, f"host {name} has joined"
        pin(host, core=core)
        pin(servers[core].pid, core=core)
    return {"fleet": [fleet], "separate": servers}


async def _rate(loads: Sequence[Load], *, seconds: float) -> float:
    """Returns tokens per second of all loads together, once they are under way."""
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running())
        await asyncio.sleep(WARM_UP_S)
        before, begin_s = sum(load.tokens for load in loads), time.monotonic()
        await asyncio.sleep(seconds)
        after, end_s = sum(load.tokens for load in loads), time.monotonic()
    return (after - before) / (end_s - begin_s)
