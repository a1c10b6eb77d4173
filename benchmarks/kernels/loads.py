"""Names what the kernels suite computes: loads of the goals, or tiny ones to rehearse.

Heads and pages are those of an 8B model at every scale; only counts differ.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mell_jax.bench.shapes import SHAPES
from mell_jax.models.config import ModelConfig
from mell_jax.models.uniform import uniform_config

KV_HEADS, GROUP, HEAD = 8, 4, 128
LAYERS = 2  # of the pools, taken in turns
LLAMA_8B = uniform_config(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=KV_HEADS * GROUP,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD,
    max_position_embeddings=8192,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load is a batch whose rows each have `new` tokens at the end of `context`."""

    rows: int
    context: int  # a multiple of the page
    new: int = 1

    @property
    def name(self) -> str:
        """Returns a name such as "decode 64 x 4096" or "prefill 2048 of 8192"."""
        if self.is_decode:
            return f"decode {self.rows} x {self.context}"
        return f"prefill {self.new} of {self.context}"

    @property
    def is_decode(self) -> bool:
        return self.new == 1

    def kv_bytes(self, number_bytes: int) -> int:
        """Returns the bytes that one call reads."""
        return self.rows * self.context * 2 * KV_HEADS * HEAD * number_bytes

    @property
    def flops(self) -> int:
        """Returns those of both products of causal attention."""
        seen = self.new * self.context - self.new * (self.new - 1) // 2
        return 4 * self.rows * KV_HEADS * GROUP * HEAD * seen


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningGrid:
    """The grid has the sizes that tuning tries, each with each."""

    blocks: tuple[int, ...] = (32, 64, 128)
    warps: tuple[int, ...] = (4, 8)
    stages: tuple[int, ...] = (2, 3, 4)
    rows: tuple[int, ...] = (64, 128)  # of a tile, for prefill
    kept: int = 3  # of the sizes tried on the first load


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelScale:
    """A scale has the sizes of everything that is measured."""

    chain: int  # calls in one program
    decode: tuple[Load, ...]  # the first one also over quantised pools
    prefill: Load
    whole_prefill: Load  # for cuDNN, whose causal sequences begin together
    copy_rows: int  # of 2**20 bytes
    matmul: int  # rows and columns
    moved_pages: int  # at once
    pool_pages: int
    model: ModelConfig
    step: Load
    has_rivals: bool = True  # beside every decode load
    grid: TuningGrid = TuningGrid()


FULL = KernelScale(
    chain=8,
    decode=(
        Load(rows=64, context=4096),
        Load(rows=256, context=1024),
        Load(rows=8, context=32_768),
        Load(rows=1, context=131_072),
    ),
    prefill=Load(rows=1, context=8192, new=2048),
    whole_prefill=Load(rows=1, context=8192, new=8192),
    copy_rows=2048,
    matmul=8192,
    moved_pages=16,
    pool_pages=2048,
    model=LLAMA_8B,
    step=Load(rows=64, context=2048),
)
TINY = KernelScale(  # shows on any device that every part runs; its figures say nothing
    chain=2,
    decode=(Load(rows=2, context=32),),
    prefill=Load(rows=1, context=64, new=32),
    whole_prefill=Load(rows=1, context=64, new=64),
    copy_rows=2,
    matmul=64,
    moved_pages=1,
    pool_pages=10,
    model=SHAPES["tiny"],
    step=Load(rows=2, context=32),
    grid=TuningGrid(blocks=(32,), warps=(4,), stages=(2,), rows=(64,)),
)
BRIEF = replace(  # what fits beside the other stages of a GPU's run
    FULL,
    decode=FULL.decode[:2],
    has_rivals=False,
    grid=TuningGrid(blocks=(64, 128), stages=(2, 3), kept=1),
)
KernelSize = Literal["full", "brief", "tiny"]
KERNEL_SCALES: dict[KernelSize, KernelScale] = {
    "full": FULL,
    "brief": BRIEF,
    "tiny": TINY,
}
