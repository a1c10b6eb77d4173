"""Runs one stage of a GPU's run in a process of its own; the suite starts it.

Takes the stage and what it has to know as one JSON object, and prints each figure as a
line of JSON as soon as it has it:

    {"stage": "speed", "order": {"size": "full", ...}}    -> {"name": ...}
"""

import json
import sys
from pathlib import Path

from benchmarks.gpu.scale import GpuOrder
from benchmarks.gpu.stages import JOBS
from mell_jax.worker.compilation import use_compilation_cache


def main(text: str) -> None:
    """Runs the stage."""
    asked = json.loads(text)
    order = GpuOrder(**asked["order"])
    with use_compilation_cache(Path(order.programs)):
        for figure in JOBS[asked["stage"]](order):
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
