"""Starts the engine once in a fresh process; prints what each part took, as JSON.

Run by `startup` with two arguments: the model's directory and the folder of the
compilation cache.
"""

import time

START_S = time.perf_counter()  # before anything heavy is imported

import json  # noqa: E402
import sys  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks.engine.harness import EngineHarness  # noqa: E402
from benchmarks.engine.timers import StepClock  # noqa: E402
from mell_jax.engine import build  # noqa: E402
from mell_jax.engine.config import EngineConfig  # noqa: E402
from mell_jax.worker.device import DeviceWorker  # noqa: E402


def main(model: str, cache_dir: str) -> None:
    """Starts an engine and generates one token."""
    import_s = time.perf_counter() - START_S
    clock = StepClock()
    with clock.watch(build, "load_model"), clock.watch(DeviceWorker, "warm_up"):
        built = build.build_engine(
            EngineConfig(model=model, compilation_cache_dir=cache_dir)
        )
    ready_s = time.perf_counter() - START_S
    harness = EngineHarness(built)
    harness.submit([np.ones(8, np.int32)], new_tokens=1)
    for _ in harness.run():
        pass
    first_token_s = time.perf_counter() - START_S
    (load_s,), (compile_s,) = clock.laps["load_model"], clock.laps["warm_up"]
    print(
        json.dumps(
            {
                "import": import_s,
                "load": load_s,
                "compile": compile_s,
                "other": ready_s - import_s - load_s - compile_s,
                "first_token": first_token_s - ready_s,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
