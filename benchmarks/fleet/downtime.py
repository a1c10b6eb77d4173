"""Measures how long a moved request pauses, and how much its neighbours notice.

Downtime is the gap between a request's last token at the source and its first at the
target, in rounds of the fleet (1: as if it had not moved) and in seconds. It is taken
at several lengths, with a neighbour on every instance that decodes all the time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.harness import FleetHarness
from benchmarks.fleet.moving import MovingStage, stage
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.engine.frames import Handle

NEIGHBOUR_TOKENS = 64
MOST_ROUNDS = 400
"""In which a move must have come to an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """The downtime is that of one length."""

    tokens: int
    moves: int
    steps: Summary
    ms: Summary
    step_ms: float  # mean
    spans: Summary  # steps from the decision to the end of the move


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """It tells how fast requests are that stay, with and without some that move."""

    requests: int
    moves_per_s: float
    still_tokens_per_s: float  # of one request; medians over segments
    moving_tokens_per_s: float
    ratio: float  # median over pairs of segments


def measure_downtime(
    harness: FleetHarness, *, tokens: int, moves: int, instances: int, seed: int
) -> Downtime:
    """Moves a request of `tokens` from instance to instance, over and over.

    Raises:
      RuntimeError: a move does not come to an end.
    """
    with stage(harness, instances=instances, seed=seed) as actors:
        left = harness.info.max_model_len - NEIGHBOUR_TOKENS
        neighbours = actors.submit([NEIGHBOUR_TOKENS] * instances, new_tokens=left)
        room = harness.info.max_model_len - tokens
        (mover,) = actors.submit([tokens], new_tokens=room)
        actors.run_until_all_decode([*neighbours, mover])
        first = actors.log.rounds
        for _ in range(moves):
            _move_once(actors, mover)
        log = actors.log
    gaps = log.gaps()
    steps = log.round_steps
    spans = [steps[move.ended_round] - steps[move.began_round] for move in log.moves]
    took_s = log.round_s[-1] - log.round_s[first]
    return Downtime(
        tokens=tokens,
        moves=len(gaps),
        steps=summarize([float(gap.steps) for gap in gaps]),
        ms=summarize([1e3 * gap.seconds for gap in gaps]),
        step_ms=1e3 * took_s / (steps[-1] - steps[first]),
        spans=summarize([float(span) for span in spans]),
    )


def _move_once(actors: MovingStage, mover: Handle) -> None:
    """One move, and a few tokens at the new place."""
    log, before = actors.log, len(actors.log.moves)
    actors.move(mover)
    for _ in range(MOST_ROUNDS):
        actors.step()
        if len(log.moves) > before:
            break
    else:
        raise RuntimeError(f"a move is not over after {MOST_ROUNDS} rounds")
    for _ in range(4):
        actors.step()


def measure_disturbance(
    harness: FleetHarness,
    *,
    instances: int,
    rows: int,
    segments: int,
    segment_s: float,
    share_per_s: float,
    seed: int,
    on_segment: Callable[[], object],
) -> Disturbance:
    """Returns segments in turn without moves and with `share_per_s` of all requests
    moving.
    """
    still: list[float] = []
    moving: list[float] = []
    count, moves = instances * rows, 0
    with stage(harness, instances=instances, seed=seed) as actors:
        new_tokens = harness.info.max_model_len - NEIGHBOUR_TOKENS
        handles = actors.submit([NEIGHBOUR_TOKENS] * count, new_tokens=new_tokens)
        actors.run_until_all_decode(handles)
        for segment in range(segments):
            # still moving | moving still | ...: a drift touches both alike
            order = (False, True) if segment % 2 == 0 else (True, False)
            for is_moving in order:
                per_s = count * share_per_s if is_moving else 0.0
                before = len(actors.log.moves)
                speed = _segment(actors, handles, seconds=segment_s, moves_per_s=per_s)
                (moving if is_moving else still).append(speed)
                moves += len(actors.log.moves) - before
                on_segment()
    return Disturbance(
        requests=count,
        moves_per_s=moves / (segments * segment_s),
        still_tokens_per_s=median(still),
        moving_tokens_per_s=median(moving),
        ratio=median([m / s for m, s in zip(moving, still, strict=True)]),
    )


def _segment(
    actors: MovingStage,
    handles: Sequence[Handle],
    *,
    seconds: float,
    moves_per_s: float,
) -> float:
    """Tokens per second of a request that was not moved."""
    log = actors.log
    had = {handle: len(log.tokens[handle]) for handle in handles}
    start_s = time.perf_counter()
    moved: list[Handle] = []
    while (now_s := time.perf_counter() - start_s) < seconds:
        while len(moved) < int(now_s * moves_per_s):
            moved.append(handles[(7 * len(moved)) % len(handles)])
            actors.move(moved[-1])
        actors.step()
    rest = [handle for handle in handles if handle not in set(moved)]
    made = sum(len(log.tokens[handle]) - had[handle] for handle in rest)
    return made / len(rest) / now_s
