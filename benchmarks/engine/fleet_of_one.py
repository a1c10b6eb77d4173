"""`python -m benchmarks.engine.fleet_of_one`: a fleet of one beside the lone engine.

Both serve the demo model on the same CPU and take turns at decoding the same rows, so
that a machine that others use does not decide. A turn counts every step, those in which
rows ask for pages too; rows start at different lengths, so that they do not ask at once.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mell_jax.bench.stats import median
from mell_jax.engine.build import (
    _find,
    _load_everywhere,
    build_engine,
)
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.core import Engine
from mell_jax.engine.fleet.build import build_fleet
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, Handle, Submit
from mell_jax.engine.params import SamplingParams

BATCHES = (1, 32, 256)
BLOCK = 8  # steps of one engine before the other has its turn
FILL = 16  # blocks of each before rows would end
BLOCKS = int(sys.argv[1]) if len(sys.argv) > 1 else 64


def main() -> None:
    config = EngineConfig(
        model="demo",
        max_rows=max(BATCHES),
        decode_rows=BATCHES,
        prefix_cache=False,
        max_model_len=256,
    )
    start_s = time.perf_counter()
    alone = build_engine(config).engine
    mid_s = time.perf_counter()
    fleet = build_fleet(
        [_load_everywhere(_find(config, progress=False))],
        config=FleetConfig(),
        seed=0,
        progress=False,
    )
    end_s = time.perf_counter()
    print(f"start-up alone {mid_s - start_s:.2f} s, fleet {end_s - mid_s:.2f} s")
    handles = itertools.count(1)
    for batch in BATCHES:
        pairs = []
        while len(pairs) < BLOCKS:
            sides = [Side(engine, batch=batch, handles=handles) for engine in (alone, fleet)]
            for number in range(FILL):
                order = sides if number % 2 else sides[::-1]
                took = {id(side): side.block() for side in order}
                pairs.append(tuple(took[id(side)] for side in sides))
            for side in sides:
                side.end()
        wall = [1e3 * median([pair[n][0] for pair in pairs]) for n in (0, 1)]
        host = [1e3 * median([pair[n][1] for pair in pairs]) for n in (0, 1)]
        ratio = median([b[0] / a[0] for a, b in pairs])
        more = 1e3 * median([b[1] - a[1] for a, b in pairs])
        print(
            f"{batch:4d} rows: alone {wall[0]:.3f} ms, fleet {wall[1]:.3f} ms a step, "
            f"median of ratios {ratio:.4f}; CPU of the thread {host[0]:.3f} and "
            f"{host[1]:.3f} ms, {more:.4f} more = {100 * more / wall[0]:.1f}%",
            flush=True,
        )


class Side:
    """One engine with all rows decoding."""

    def __init__(
        self, engine: Engine | Fleet, *, batch: int, handles: Iterator[int]
    ) -> None:
        rng = np.random.default_rng(0)
        params = SamplingParams(temperature=0.0, max_tokens=220, ignore_eos=True)
        self._engine, self._batch = engine, batch
        self._own = [Handle(next(handles)) for _ in range(batch)]
        for number, handle in enumerate(self._own):
            prompt = rng.integers(0, 255, 8 + number % 16, dtype=np.int32)
            engine.submit(Submit(handle=handle, prompt=prompt, params=params))
        while True:
            frame: Any = engine.step()
            if frame is not None and len(frame.handles) == batch:
                break

    def block(self) -> tuple[float, float]:
        """Seconds of a step, by the clock and of the thread's CPU."""
        self._engine.step()
        start_s, cpu_s = time.perf_counter(), time.thread_time()
        for _ in range(BLOCK):
            frame: Any = self._engine.step()
            self._engine.load()
            assert len(frame.handles) == self._batch
        return (
            (time.perf_counter() - start_s) / BLOCK,
            (time.thread_time() - cpu_s) / BLOCK,
        )

    def end(self) -> None:
        self._engine.abort(Abort(handles=tuple(self._own)))
        while self._engine.has_work:
            self._engine.step()


if __name__ == "__main__":
    main()
