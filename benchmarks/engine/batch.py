"""Runs one static batch from prompts to last tokens and reads speeds off it.

The same definitions hold for every program that is compared. A step is *full* when it
gives each of the B sequences a token:

    prefill   prompt tokens / time until every sequence has its first token
    decode    B * (full steps - 1) / time from the first full step to the last one
    overall   generated tokens / time of everything

A program that prefills sequences one after another decodes the early ones meanwhile;
that work is in its prefill time, and its full steps are fewer.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStep:
    """A step's tokens were there at this time, and are theirs."""

    time_s: float  # from the start of the batch
    rows: tuple[int, ...]  # 0 to B - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """A run has all steps of a batch."""

    batch: int  # B
    prompt_tokens: int  # of each sequence
    steps: tuple[BatchStep, ...]
    tokens: tuple[tuple[int, ...], ...]  # [B][new tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpeeds:
    """The speeds are tokens per second."""

    prefill: float
    decode: float | None  # None without two full steps
    overall: float


def speeds_of(run: BatchRun) -> BatchSpeeds:
    """Reads the speeds off a run."""
    last_s = run.steps[-1].time_s
    generated = sum(len(step.rows) for step in run.steps)
    return BatchSpeeds(
        prefill=run.batch * run.prompt_tokens / _all_started_s(run),
        decode=_decode_speed(run),
        overall=generated / last_s,
    )


def count_full(run: BatchRun) -> int:
    """Steps that give every sequence a token."""
    return sum(len(step.rows) == run.batch for step in run.steps)


def count_equal(ours: BatchRun, theirs: BatchRun) -> int:
    """Returns tokens that are the same from the start on, over all sequences.

    With the same weights and greedy choice nearly all; two programs round differently,
    and after one different token a sequence goes its own way.
    """
    total = 0
    for mine, other in zip(ours.tokens, theirs.tokens, strict=True):
        for a, b in zip(mine, other, strict=True):
            if a != b:
                break
            total += 1
    return total


def _all_started_s(run: BatchRun) -> float:
    missing = set(range(run.batch))
    for step in run.steps:
        missing -= set(step.rows)
        if not missing:
            return step.time_s
    raise ValueError(f"sequences {sorted(missing)} got no token")


def _decode_speed(run: BatchRun) -> float | None:
    full = [step.time_s for step in run.steps if len(step.rows) == run.batch]
    if len(full) < 2:
        return None
    return run.batch * (len(full) - 1) / (full[-1] - full[0])
