"""Measures the tokens per second of a fleet of two hosts beside two separate servers.

    fleet      clients -> head -> hosts a, b       each host on a core of its own
    separate   clients -> server 1, server 2       each server on a core of its own

The four engines are there all the time, and the two sides take turns under the same
load. Head, controller and clients have both cores; a server by itself talks to its
clients from its own. On a machine that others use, too, rates differ from turn to turn:
processor time per token says what a fleet costs in any case.
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
from benchmarks.hosts.started import (
    Started,
    pin,
    serving,
    serving_hosts,
    step_flags,
)
from mell_jax.bench.report import line
from mell_jax.bench.shapes import RANDOM, model_directory
from mell_jax.bench.stats import median
from mell_jax.engine.build import demo_directory
from mell_jax.serving.loop import run_loop

HOSTS = ("a", "b")
LOOK_S = 0.05
PROMPT_TOKENS, ANSWER_TOKENS = 32, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensFigures:
    """Both sides gave so many tokens per second, turn by turn.

    Attributes:
      ratio: the median of those of pairs of turns, fleet / separate.
      fleet_cpu_ms: of all processes of the fleet, per token; medians of turns.
    """

    streams: int
    fleet_tokens_per_s: tuple[float, ...]
    separate_tokens_per_s: tuple[float, ...]
    ratios: tuple[float, ...]
    ratio: float
    fleet_cpu_ms: float
    separate_cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    tokens_per_s: float
    cpu_ms: float  # per token


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
    turns_of: dict[str, list[_Turn]] = {"fleet": [], "separate": []}
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
                turns_of[name].append(run_loop(_turn(side, loads, seconds=seconds)))
    fleet = [each.tokens_per_s for each in turns_of["fleet"]]
    separate = [each.tokens_per_s for each in turns_of["separate"]]
    ratios = [one / other for one, other in zip(fleet, separate, strict=True)]
    return TokensFigures(
        streams=streams,
        fleet_tokens_per_s=tuple(fleet),
        separate_tokens_per_s=tuple(separate),
        ratios=tuple(ratios),
        ratio=median(ratios),
        fleet_cpu_ms=median([each.cpu_ms for each in turns_of["fleet"]]),
        separate_cpu_ms=median([each.cpu_ms for each in turns_of["separate"]]),
    )


def render_tokens(figures: TokensFigures) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{figures.streams} streams, medians of {len(figures.ratios)} turns",
            line("a fleet of two hosts, tokens/s", median(figures.fleet_tokens_per_s)),
            line("two servers, tokens/s", median(figures.separate_tokens_per_s)),
            line("fleet / separate", figures.ratio),
            line("CPU per token, fleet, ms", figures.fleet_cpu_ms),
            line("CPU per token, two servers, ms", figures.separate_cpu_ms),
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
    flags = [f"--model={directory}", *step_flags(folder, rows=rows)]
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


async def _turn(
    side: Sequence[Started], loads: Sequence[Load], *, seconds: float
) -> _Turn:
    """Measures a side under load, once all streams are under way."""
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running())
        while any(not load.is_under_way for load in loads):
            await asyncio.sleep(LOOK_S)
        before, begin_s = sum(load.tokens for load in loads), time.monotonic()
        before_cpu_s = sum(each.cpu_s() for each in side)
        await asyncio.sleep(seconds)
        tokens = sum(load.tokens for load in loads) - before
        took_s = time.monotonic() - begin_s
        cpu_s = sum(each.cpu_s() for each in side) - before_cpu_s
    if not tokens:
        raise RuntimeError(f"no token came in {took_s:.1f} s: measure for longer")
    return _Turn(tokens_per_s=tokens / took_s, cpu_ms=1e3 * cpu_s / tokens)
