"""What the engine dispatches never branches: a GPU's host would wait for the data."""

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.compile import compile_programs
from mell_jax.worker.layout import Bucket
from mell_jax.worker.pool import PAGE_TOKENS, pool_shape
from mell_jax.worker.sampling import ROW_COLUMNS, init_row_state
from mell_jax.worker.step import StepOptions, make_programs, split_model
from tests.pallas_kernels.devices import H100, V6E, lowering_platform, tracing_for

CONFIG = uniform_config(
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
CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """Stands in the place of a jitted program; compiled, it is its control flow."""

    jitted: Any
    device: AbstractDevice

    def eval_shape(self, *args: Any) -> Any:
        with tracing_for(self.device):
            return self.jitted.eval_shape(*args)

    def lower(self, *args: Any, **kwargs: Any) -> "Lowering":
        with tracing_for(self.device):
            return replace(self, jitted=self.jitted.trace(*args, **kwargs))

    def compile(self, *, compiler_options: object) -> set[str]:
        del compiler_options
        platforms = (lowering_platform(self.device),)
        text = self.jitted.lower(lowering_platforms=platforms).as_text()
        assert "func.func public @main" in text
        return set(re.findall(r"stablehlo\.(while|case|if)\b", text))


def control_flow(backend: str, *, device: AbstractDevice) -> dict[str, set[str]]:
    """What each program that an engine with a small model compiles does by itself."""
    platform = device.platform
    parts, weights = split_model(*nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(0))))
    options = StepOptions(
        attention_backend=backend,
        page_tokens=PAGE_TOKENS,
        places=lay_out(CONFIG).places,
    )
    programs = make_programs(parts, buckets=BUCKETS, options=options, platform=platform)
    shape = pool_shape(CONFIG, num_pages=8, platform=platform)
    state = functools.partial(init_row_state, vocab_size=CONFIG.vocab_size)
    pool: Any = jax.ShapeDtypeStruct(shape, np.float32)
    found: Any = compile_programs(
        programs.changed(functools.partial(_lowering, device=device)),
        weights=jax.eval_shape(lambda: weights),
        pool=pool,
        rows=jax.eval_shape(functools.partial(state, rows=ROWS)),
        padding={ROWS: np.zeros((ROW_COLUMNS, ROWS), np.int32)},
        platform=platform,
        progress=False,
        threads=1,
    )
    named = {"set_row": found.set_row, "observe": found.observe}
    named |= {f"forward {bucket}": flow for bucket, flow in found.forwards.items()}
    named |= {f"scores {bucket}": flow for bucket, flow in found.scores.items()}
    named |= found.samplers[ROWS].programs._asdict()
    assert len(named) == 2 + len(BUCKETS) + 1 + 8
    return named


def _lowering(jitted: Any, *, device: AbstractDevice) -> Lowering:
    return Lowering(jitted=jitted, device=device)


@pytest.mark.parametrize(("device", "backend"), [(H100, "triton"), (V6E, "mosaic_tpu")])
def test_no_program_of_an_accelerator_branches_or_loops(
    device: AbstractDevice, backend: str
) -> None:
    for name, found in control_flow(backend, device=device).items():
        assert found == set(), name


def test_no_program_of_a_cpu_branches() -> None:
    """Loops: attention's, the bit search's, and those of JAX's random bits."""
    found = control_flow("xla", device=CPU)
    loops = {name for name, kinds in found.items() if kinds}
    forwards = {f"forward {bucket}" for bucket in BUCKETS}
    assert loops == {*forwards, "drawn", "filter"}
    assert all(kinds <= {"while"} for kinds in found.values())
