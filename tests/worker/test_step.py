"""What the engine dispatches never branches: a GPU's host would wait for the data."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.worker.layout import Bucket, vector_size
from mell_jax.worker.pool import PAGE_TOKENS, pool_shape
from mell_jax.worker.sampling import (
    ROW_COLUMNS,
    Logits,
    init_row_state,
)
from mell_jax.worker.step import (
    Programs,
    StepOptions,
    make_programs,
    prompt_chunk,
    split_model,
)
from tests.pallas_kernels.devices import H100, V6E, lowering_platform, tracing_for

CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    max_position_embeddings=256,
)
ROWS = 4
BUCKETS = (
    Bucket(tokens=ROWS, rows=ROWS, pages=4, is_decode=True),
    Bucket(tokens=32, rows=ROWS, pages=4, is_decode=False),
)
Program = tuple[str, jax.stages.Traced]


def traced(backend: str, *, platform: str) -> list[Program]:
    """Every program of a small model."""
    parts, weights = split_model(*nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(0))))
    options = StepOptions(attention_backend=backend, page_tokens=PAGE_TOKENS)
    programs = make_programs(parts, buckets=BUCKETS, options=options, platform=platform)
    shape = pool_shape(CONFIG, num_pages=8, platform=platform)
    return _trace(
        programs,
        jax.eval_shape(lambda: weights),
        jax.ShapeDtypeStruct(shape, np.float32),
    )


def _trace(
    programs: Programs, weights: Any, pool: jax.ShapeDtypeStruct
) -> list[Program]:
    rows = jax.eval_shape(
        functools.partial(init_row_state, rows=ROWS, vocab_size=CONFIG.vocab_size)
    )
    shape = jax.ShapeDtypeStruct
    found: list[Program] = []
    for bucket, forward in programs.forwards.items():
        vector = shape((vector_size(bucket),), np.int32)
        found.append(
            (f"forward {bucket}", forward.trace(weights, pool, rows.last_token, vector))
        )
    for bucket, jitted in programs.scores.items():
        score: Any = jitted
        hidden = shape((bucket.tokens, CONFIG.hidden_size), np.float32)
        targets = shape((prompt_chunk(bucket),), np.int32)
        start = shape((), np.int32)
        found.append((f"prompt {bucket}", score.trace(weights, hidden, targets, start)))
    logits = Logits(
        values=shape((ROWS, CONFIG.vocab_size), np.float32),
        are_finite=shape((ROWS,), np.bool_),
    )
    packed = shape((ROW_COLUMNS, ROWS), np.int32)
    sampler = programs.samplers[ROWS].traced(logits, rows, packed)
    found += [(f"sampler {n}", program) for n, program in enumerate(sampler)]
    assert len(found) == len(BUCKETS) + 1 + 6
    return found


def control_flow(program: jax.stages.Traced, *, platform: str) -> set[str]:
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert "func.func public @main" in text
    return set(re.findall(r"stablehlo\.(while|case|if)\b", text))


@pytest.mark.parametrize(("device", "backend"), [(H100, "triton"), (V6E, "mosaic_tpu")])
def test_no_program_of_an_accelerator_branches_or_loops(
    device: AbstractDevice, backend: str
) -> None:
    with tracing_for(device):
        programs = traced(backend, platform=device.platform)
    for name, program in programs:
        found = control_flow(program, platform=lowering_platform(device))
        assert found == set(), name


def test_no_program_of_a_cpu_branches() -> None:
    """Loops it has: attention's, the bit searches' and those of JAX's random bits."""
    for name, program in traced("xla", platform="cpu"):
        assert control_flow(program, platform="cpu") <= {"while"}, name
