"""The stages of a GPU's run stand here, in their order, with their shares of 9 minutes.

A share that a stage does not need is left to those after it: each ends at the latest
when its own share and all before it are over, so that the whole keeps its time and one
that is late takes nothing from the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gpu import launches, moves, speed
from benchmarks.gpu.scale import GpuOrder
from benchmarks.kernels.figures import Figure

WHOLE_S = 540.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage is a process, or several that share its time."""

    name: str
    share_s: float
    why: str  # it has this share


STAGES = (
    Stage(
        name="thunks",
        share_s=130.0,
        why="compiles all of an engine's programs, which the next ones find kept",
    ),
    Stage(
        name="dispatch",
        share_s=40.0,
        why="20 s to start and draw 16 GB, seconds to measure",
    ),
    Stage(
        name="sharing",
        share_s=40.0,
        why="as dispatch, with a second pool",
    ),
    Stage(
        name="speed",
        share_s=65.0,
        why="as dispatch, and 40 s of steps: 3 batches, 2 prompts",
    ),
    Stage(
        name="kernels",
        share_s=145.0,
        why="7 processes: 10 checks, 2 ceilings, 4 loads, 50 tile sizes to compile",
    ),
    Stage(
        name="moves",
        share_s=40.0,
        why="as dispatch; 512 pages are 1 GiB each way",
    ),
    Stage(
        name="flags",
        share_s=75.0,
        why="3 processes that each compile 8 layers of the model anew",
    ),
)
NAMES = tuple(stage.name for stage in STAGES)
FLAGS = {  # of XLA, by what a figure calls them; the first are those without
    "no flags": "",
    "WHILE and COLLECTIVES in command buffers": (
        "--xla_gpu_enable_command_buffer=+WHILE,+COLLECTIVES"
    ),
    "GEMMs by cuBLASLt": "--xla_gpu_enable_triton_gemm=false",
}
JOBS: dict[str, Callable[[GpuOrder], Iterator[Figure]]] = {
    "thunks": launches.thunks,
    "dispatch": launches.dispatch,
    "sharing": launches.sharing,
    "speed": speed.speed,
    "moves": moves.moves,
    "flags": speed.worth,
}
"""What runs in the process of a stage; that of kernels has jobs of its own."""
