"""Frames and loads of several instances become those of one engine here."""

from collections.abc import Mapping, Sequence

import numpy as np

from mell_jax.engine.fleet.tally import Past
from mell_jax.engine.fleet_view import FleetView
from mell_jax.engine.frames import EngineLoad, Float32Array, Logprobs, StepFrame
from mell_jax.engine.histogram import Histogram
from mell_jax.worker.sampling.logprobs import TOP_LOGPROBS


def merge_frames(frames: Sequence[StepFrame]) -> StepFrame | None:
    """Returns one frame with the rows of all, in order; None if there are none."""
    if len(frames) <= 1:
        return frames[0] if frames else None
    return StepFrame(
        handles=np.concatenate([frame.handles for frame in frames]),
        tokens=np.concatenate([frame.tokens for frame in frames]),
        logprobs=merge_logprobs(
            [(frame.logprobs, len(frame.handles)) for frame in frames]
        ),
        prompts=tuple(done for frame in frames for done in frame.prompts),
        finished=tuple(end for frame in frames for end in frame.finished),
        versions=tuple(new for frame in frames for new in frame.versions),
    )


def sum_loads(
    loads: Sequence[EngineLoad],
    *,
    past: Past,
    waiting: int,
    preemptions: int,
    compilations: int,
    fleet: FleetView | None = None,
    phases: Mapping[str, Histogram] | None = None,
) -> EngineLoad:
    """Returns the load of all instances.

    Args:
      past: what instances counted that are gone.
      waiting: requests that no instance has.
      preemptions: beside those that instances know of.
    """

    return EngineLoad(
        running=sum([load.running for load in loads]),
        waiting=sum([load.waiting for load in loads]) + waiting,
        waiting_tokens=sum([load.waiting_tokens for load in loads]),
        used_pages=sum([load.used_pages for load in loads]),
        cached_pages=sum([load.cached_pages for load in loads]),
        free_pages=sum([load.free_pages for load in loads]),
        generated_tokens=sum([load.generated_tokens for load in loads])
        + past.generated_tokens,
        prefix_hit_tokens=sum([load.prefix_hit_tokens for load in loads])
        + past.prefix_hit_tokens,
        prefix_query_tokens=sum([load.prefix_query_tokens for load in loads])
        + past.prefix_query_tokens,
        preemptions=sum([load.preemptions for load in loads])
        + past.preemptions
        + preemptions,
        steps=sum([load.steps for load in loads]) + past.steps,
        compilations=compilations,
        fleet=fleet,
        phases=phases,
    )


def merge_logprobs(parts: Sequence[tuple[Logprobs | None, int]]) -> Logprobs | None:
    """Joins rows; of parts that have none they are NaN, as nobody asked.

    Args:
      parts: each with its number of rows.
    """
    if all(part is None for part, _ in parts):
        return None
    whole = [part or _nothing(rows) for part, rows in parts]
    return Logprobs(
        chosen=np.concatenate([part.chosen for part in whole]),
        top_ids=np.concatenate([part.top_ids for part in whole]),
        top=np.concatenate([part.top for part in whole]),
    )


def _nothing(rows: int) -> Logprobs:
    def unknown(*shape: int) -> Float32Array:
        return np.full(shape, np.nan, np.float32)

    return Logprobs(
        chosen=unknown(rows),
        top_ids=np.zeros((rows, TOP_LOGPROBS), np.int32),
        top=unknown(rows, TOP_LOGPROBS),
    )
