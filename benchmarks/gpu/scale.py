"""Names what the stages of a GPU's run measure: an 8B model, or a tiny rehearsal."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.kernels.loads import LLAMA_8B
from mell_jax.bench.shapes import SHAPES
from mell_jax.engine.config import DType
from mell_jax.models.config import ModelConfig

Size = Literal["full", "tiny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuScale:
    """A scale has the sizes of everything that is measured."""

    model: ModelConfig
    dtype: DType
    max_tokens: int  # of one sequence: the width of every page table
    batches: tuple[int, ...]  # decoded at once; the last is the most rows
    beside: int  # of them, decoded beside moves and under other flags
    context: int  # tokens that each row of them sees
    chunk: int  # tokens of a prompt in one step
    prompts: tuple[int, ...]
    moved_pages: tuple[int, ...]
    pool_pages: int
    steps: int  # of a lap
    repeats: int  # laps; medians are taken
    cut_layers: int  # of the model under other flags: what is saved is time to compile


FULL = GpuScale(
    model=LLAMA_8B,
    dtype="bfloat16",
    max_tokens=8192,
    batches=(1, 32, 256),
    beside=32,
    context=1024,
    chunk=2048,
    prompts=(2048, 8192),
    moved_pages=(8, 32, 128, 512),
    pool_pages=256 * 64 + 1,
    steps=40,
    repeats=5,
    cut_layers=8,
)
TINY = GpuScale(  # shows on any device that every stage runs; its figures say nothing
    model=SHAPES["tiny"],
    dtype="float32",
    max_tokens=128,
    batches=(1, 2),
    beside=2,
    context=32,
    chunk=32,
    prompts=(32, 64),
    moved_pages=(1, 5),
    pool_pages=20,
    steps=3,
    repeats=2,
    cut_layers=1,
)
SCALES: dict[Size, GpuScale] = {"full": FULL, "tiny": TINY}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOrder:
    """Every stage is told this."""

    size: Size
    seed: int
    backend: str  # of attention, or "auto"
    programs: str  # folder of compiled programs that all stages share
    dump: str = ""  # folder where XLA leaves what it compiled
    label: str = ""  # of the flags that this process was given
    base_ms: float | None = None  # of a step without them

    @property
    def scale(self) -> GpuScale:
        return SCALES[self.size]
