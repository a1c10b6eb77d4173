"""Compiles the programs of a model for one group of devices, several at a time.

What is called afterwards are the executables themselves: no call can compile.
"""

import concurrent.futures
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from mell_jax.progress import Progress
from mell_jax.worker.layout import Bucket, vector_size
from mell_jax.worker.sampling import (
    BIAS_CAP,
    STOP_CAP,
    Logits,
    RowState,
    Sampler,
    SamplerPrograms,
)
from mell_jax.worker.settings import tracing_settings
from mell_jax.worker.step import Programs, Weights, prompt_chunk

HISTORY_CHUNK = 512
"""Tokens per call when a row's history is counted for its penalties."""
COMPILER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # LLVM at -O1: a quarter less time to compile, and steps as fast as at -O3.
    "cpu": {"xla_backend_optimization_level": 1}
}
"""What XLA is told besides its defaults, by platform."""
Call = tuple[Any, ...] | dict[str, Any]
_Struct = jax.ShapeDtypeStruct


def compile_programs(
    programs: Programs,
    *,
    weights: Weights,
    pool: jax.Array,
    rows: RowState,
    padding: Mapping[int, npt.NDArray[np.int32]],
    platform: str,
    progress: bool,
    threads: int,
) -> Programs:
    """Returns jitted programs compiled for where `weights`, `pool` and `rows` lie.

    Args:
      programs: of the model.
      weights: of the model.
      pool: of an instance.
      rows: of an instance.
      padding: rows for the sampler, by their number.
      platform: of the devices.
      progress: show a bar.
      threads: that compile.
    """
    calls = _calls(programs, weights=weights, pool=pool, rows=rows, padding=padding)
    made: list[concurrent.futures.Future[jax.stages.Compiled]] = []
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:

        def begin(job: functools.partial[jax.stages.Compiled]) -> Any:
            made.append(executor.submit(job, platform=platform))
            return made[-1]

        begun = calls.changed(begin)
        bar = Progress("compiling", total=len(made), unit="programs", has_bar=progress)
        with bar:
            for one in concurrent.futures.as_completed(made):
                one.result()
                bar.advance()
    return begun.changed(lambda one: one.result())


def compile_program(jitted: Any, call: Call, *, platform: str) -> jax.stages.Compiled:
    """Returns a jitted program compiled for a call with such arguments."""
    with tracing_settings():  # they are a thread's own
        if isinstance(call, dict):
            state = call.pop("state")
            lowered: jax.stages.Lowered = jitted.lower(state, **call)
        else:
            lowered = jitted.lower(*call)
        options = COMPILER_OPTIONS.get(platform, {})
        return lowered.compile(compiler_options=dict(options) or None)


def forward_arguments(
    bucket: Bucket, *, weights: Weights, pool: jax.Array, rows: RowState
) -> tuple[Any, ...]:
    """Returns what the forward pass of a bucket is called with, as shapes."""
    shapes = jax.tree.map(_shape_of, (weights, pool, rows.last_token))
    return (*shapes, _Struct((vector_size(bucket),), np.int32))


def _calls(
    programs: Programs,
    *,
    weights: Weights,
    pool: jax.Array,
    rows: RowState,
    padding: Mapping[int, npt.NDArray[np.int32]],
) -> Programs:
    """Returns a function in the place of each program, which compiles it."""
    whole = rows.last_token.sharding
    state = jax.tree.map(_shape_of, rows)
    forwards = {
        bucket: forward_arguments(bucket, weights=weights, pool=pool, rows=rows)
        for bucket in programs.forwards
    }
    scores = {}
    for bucket in programs.scores:
        jitted: Any = programs.forwards[bucket]
        with tracing_settings():
            hidden = jitted.eval_shape(*forwards[bucket])[1].hidden
        scores[bucket] = (
            forwards[bucket][0],
            _Struct(hidden.shape, hidden.dtype, sharding=whole),
            _Struct((prompt_chunk(bucket),), np.int32),
            _Struct((prompt_chunk(bucket),), np.float32),
            _Struct((), np.int32),
        )
    vocab_size = rows.output_counts.shape[1]
    return Programs(
        forwards={b: _job(p, forwards[b]) for b, p in programs.forwards.items()},
        scores={b: _job(p, scores[b]) for b, p in programs.scores.items()},
        samplers={
            count: _sampler_jobs(
                sampler,
                state=state,
                vocab_size=vocab_size,
                whole=whole,
                rows=padding[count],
            )
            for count, sampler in programs.samplers.items()
        },
        set_row=_job(programs.set_row, _set_row_call(state)),
        observe=_job(programs.observe, _observe_call(state)),
    )


def _sampler_jobs(
    sampler: Sampler,
    *,
    state: RowState,
    vocab_size: int,
    whole: jax.sharding.Sharding,
    rows: npt.NDArray[np.int32],
) -> Sampler:
    shape = (rows.shape[1], vocab_size)
    values: Any = _Struct(shape, np.float32, sharding=whole)
    are_finite: Any = _Struct(shape[:1], np.bool_, sharding=whole)
    logits = Logits(values=values, are_finite=are_finite)
    calls = sampler.arguments(logits, state, rows)
    return Sampler(SamplerPrograms(*map(_job, sampler.programs, calls)))


def _set_row_call(state: RowState) -> dict[str, Any]:
    return {
        "state": state,
        "slot": np.int32(0),
        "last_token": np.int32(0),
        "bias_ids": np.zeros(BIAS_CAP, np.int32),
        "bias_values": np.zeros(BIAS_CAP, np.float32),
        "allow_only": np.bool_(False),
        "stop_ids": np.zeros(STOP_CAP, np.int32),
    }


def _observe_call(state: RowState) -> dict[str, Any]:
    return {
        "state": state,
        "slot": np.int32(0),
        "tokens": np.zeros(HISTORY_CHUNK, np.int32),
        "num_prompt": np.int32(0),
        "num_valid": np.int32(0),
    }


def _job(program: Any, call: Call) -> Any:
    return functools.partial(compile_program, program, call)


def _shape_of(x: jax.Array) -> jax.ShapeDtypeStruct:
    return _Struct(x.shape, x.dtype, sharding=x.sharding)
