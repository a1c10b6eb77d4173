"""A step's frame is cut into what each front end is to hear."""

import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import Logprobs, NewVersion, StepFrame
from mell_jax.serving.processes.wire import ROUTE_BITS


def part_of(frame: StepFrame, *, number: int) -> StepFrame | None:
    """Returns the rows of one front end's sequences, in order; None if it has none."""
    mine = frame.handles >> ROUTE_BITS == number
    prompts = tuple(p for p in frame.prompts if p.handle >> ROUTE_BITS == number)
    finished = tuple(f for f in frame.finished if f.handle >> ROUTE_BITS == number)
    rows = np.flatnonzero(mine)
    if not (rows.size or prompts or finished):
        return None
    if rows.size == mine.size:
        handles, tokens, logprobs = frame.handles, frame.tokens, frame.logprobs
    else:
        handles, tokens = frame.handles[rows], frame.tokens[rows]
        logprobs = _logprobs_of(frame.logprobs, rows)
    return StepFrame(
        handles=handles,
        tokens=tokens,
        logprobs=logprobs,
        prompts=prompts,
        finished=finished,
        versions=_versions_of(frame.versions, number=number),
    )


def _versions_of(
    versions: tuple[NewVersion, ...], *, number: int
) -> tuple[NewVersion, ...]:
    found = []
    for new in versions:
        handles = tuple(h for h in new.handles if h >> ROUTE_BITS == number)
        if handles:
            found.append(NewVersion(version=new.version, handles=handles))
    return tuple(found)


def _logprobs_of(
    logprobs: Logprobs | None, rows: npt.NDArray[np.intp]
) -> Logprobs | None:
    if logprobs is None:
        return None
    return Logprobs(
        chosen=logprobs.chosen[rows],
        top_ids=logprobs.top_ids[rows],
        top=logprobs.top[rows],
    )
