"""Keeps requests decoding on all instances of a fleet, and moves them when asked to."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.fleet.harness import FleetHarness
from benchmarks.fleet.watch import Log, watch
from mell_jax.bench.still import Still
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.placement import events

NEVER_S = 1e9


class MovingStage:
    """A stage is a fleet of `Still`, stepped by hand; handles count from 0."""

    def __init__(
        self, harness: FleetHarness, fleet: Fleet, log: Log, *, seed: int
    ) -> None:
        self.harness = harness
        self.fleet = fleet
        self.log = log
        self._handles = itertools.count()
        self._rng = np.random.default_rng(seed)

    def submit(self, lengths: Sequence[int], *, new_tokens: int) -> list[Handle]:
        """Submits random prompts of these lengths; they do not end early."""
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        handles = []
        for length in lengths:
            prompt = self._rng.integers(
                2, self.harness.info.vocab_size, length, np.int32
            )
            handle = Handle(next(self._handles))
            self.fleet.submit(Submit(handle=handle, prompt=prompt, params=params))
            handles.append(handle)
        return handles

    def step(self) -> None:
        """Makes one round.

        Raises:
          RuntimeError: a request failed.
        """
        frame = self.fleet.step()
        self.log.read(frame)
        for end in frame.finished if frame is not None else ():
            if end.reason is FinishReason.ERROR:
                raise RuntimeError(f"the fleet failed a request: {end.message}")

    def run_until_all_decode(self, handles: Sequence[Handle]) -> None:
        """Steps until each has two tokens."""
        while any(len(self.log.tokens[handle]) < 2 for handle in handles):
            self.step()

    def move(self, handle: Handle) -> None:
        """Begins to move a request to the next instance; one on its way goes on."""
        conductor = self.fleet.conductor
        request = conductor.requests.get(handle)
        if request is None:
            return
        known = self.fleet.machine.ledger.requests[request]
        devices = list(self.fleet.instances)
        if known.device is None or known.move is not None:
            return
        at = devices.index(known.device)
        target = devices[(at + 1) % len(devices)]
        conductor.decide(events.Relocate(request=request, device=target))
        conductor.settle()


@contextlib.contextmanager
def stage(
    harness: FleetHarness, *, instances: int, seed: int, epoch_s: float = NEVER_S
) -> Iterator[MovingStage]:
    """Yields an open fleet that does nothing on its own account."""
    log = Log(time.perf_counter)
    fleet = harness.open_fleet(
        Still(instances), clock=time.monotonic, config=FleetConfig(epoch_s=epoch_s)
    )
    with watch(fleet, log):
        yield MovingStage(harness, fleet, log, seed=seed)
    harness.close_fleet(fleet)
