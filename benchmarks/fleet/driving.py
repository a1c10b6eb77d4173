"""Measures what the host adds to a step of an instance, and what an idle fleet costs.

    overhead = (round of the fleet - the same steps sent bare) / instances
    python   = (round of the fleet - in dispatch - waiting for results) / instances

A round is as many steps as there are instances, whosever they are. The first is what
the device does not hide, measured as `overhead` does; the second counts all of the
host's own time, hidden or not. Nobody comes, goes or moves.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.engine.timers import StepClock, replaced
from benchmarks.fleet.harness import FleetHarness
from benchmarks.fleet.moving import MovingStage, stage
from mell_jax.bench.stats import median
from mell_jax.engine.fleet.arrivals import WatchedArrivals
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import Abort, EngineStopped, StepFrame
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.device import DeviceWorker, Pending, StepCall

PROMPT_TOKENS = 16
SETTLING_ROUNDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Driving:
    """The figures are medians, in milliseconds per step of one instance."""

    instances: int
    rows: int  # of each
    round_ms: float  # of the fleet, all instances
    bare_ms: float  # the same steps without a fleet
    overhead_ms: float  # per instance step
    python_ms: float  # per instance step
    dispatch_ms: float  # per instance step
    wait_ms: float  # per instance step


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """The fleet is idle with all of its instances open."""

    seconds: float
    cpu_share: float  # of a core


def measure_driving(
    harness: FleetHarness,
    *,
    instances: int,
    rows: int,
    steps: int,
    repeats: int,
    seed: int,
) -> Driving:
    """Measures rounds, and in turn with them the same steps sent bare."""
    rounds: list[float] = []
    bares: list[float] = []
    overheads: list[float] = []
    for _ in range(repeats):
        with stage(harness, instances=instances, seed=seed) as actors:
            with _recording(harness) as sent:
                ours = _rounds(actors, rows=rows, instances=instances, steps=steps)
            _clear(actors)
            bare = _replay(harness, sent, steps=steps)
        overheads.append((median(ours) - median(bare)) / instances)
        rounds += ours
        bares += bare
    parts = _parts(harness, instances=instances, rows=rows, steps=steps, seed=seed)
    return Driving(
        instances=instances,
        rows=rows,
        round_ms=1e3 * median(rounds),
        bare_ms=1e3 * median(bares),
        overhead_ms=1e3 * median(overheads),
        python_ms=1e3 * parts["python"],
        dispatch_ms=1e3 * parts["dispatch"],
        wait_ms=1e3 * parts["wait"],
    )


def measure_idle(harness: FleetHarness, *, instances: int, seconds: float) -> Idle:
    """Returns this process's CPU time while a fleet that has served something waits."""
    with stage(
        harness, instances=instances, seed=0, epoch_s=FleetConfig().epoch_s
    ) as own:
        handles = own.submit([PROMPT_TOKENS] * instances, new_tokens=4)
        while len(own.log.finished) < len(handles):
            own.step()
        assert len(own.fleet.instances) == instances, "an instance was parked"
        thread = EngineThread(own.fleet, compilations=harness.compilations)
        thread.start(_ignore)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        time.sleep(seconds)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        thread.stop()
    return Idle(seconds=wall_s, cpu_share=cpu_s / wall_s)


def _parts(
    harness: FleetHarness, *, instances: int, rows: int, steps: int, seed: int
) -> dict[str, float]:
    """Seconds per instance step of each part: medians over the rounds."""
    clock = StepClock()
    rounds: list[dict[str, float]] = []

    def end_round() -> None:
        sums = {name: sum(clock.laps[name]) for name in ("step", "dispatch", "wait")}
        sums["python"] = sums["step"] - sums["dispatch"] - sums["wait"]
        rounds.append(sums)
        clock.reset()

    with (
        stage(harness, instances=instances, seed=seed) as actors,
        _timed(harness, clock),
        clock.watch(WatchedArrivals, "wait"),
        clock.watch(actors.fleet, "step"),
    ):
        _rounds(
            actors, rows=rows, instances=instances, steps=steps, end_round=end_round
        )
    rounds = rounds[1:]  # the first one has all that came before
    return {
        name: median([own[name] for own in rounds]) / instances for name in rounds[0]
    }


def _ignore(said: StepFrame | EngineStopped) -> None:
    assert not getattr(said, "message", ""), said


def _rounds(
    actors: MovingStage,
    *,
    instances: int,
    rows: int,
    steps: int,
    end_round: Callable[[], None] = lambda: None,
) -> list[float]:
    """Seconds of each of `steps` rounds in which every row decodes."""
    new_tokens = actors.harness.info.max_model_len - PROMPT_TOKENS
    lengths = [PROMPT_TOKENS] * (instances * rows)
    actors.run_until_all_decode(actors.submit(lengths, new_tokens=new_tokens))
    for _ in range(SETTLING_ROUNDS):
        actors.step()
    end_round()
    times, landed = [time.perf_counter()], 0
    for _ in range(steps):
        while landed < instances * rows:
            frame = actors.fleet.step()
            landed += 0 if frame is None else len(frame.handles)
        landed -= instances * rows
        times.append(time.perf_counter())
        end_round()
    return [after - before for before, after in itertools.pairwise(times)]


def _clear(actors: MovingStage) -> None:
    handles = tuple(actors.fleet.conductor.requests)
    actors.fleet.abort(Abort(handles=handles))
    while actors.fleet.has_work:
        actors.fleet.step()


@contextlib.contextmanager
def _recording(
    harness: FleetHarness,
) -> Iterator[dict[DeviceGroupId, list[StepCall]]]:
    """Notes what every instance sends to its compiled decode steps."""
    sent: dict[DeviceGroupId, list[StepCall]] = {
        device: [] for device in harness.workers
    }

    def noting(device: DeviceGroupId, worker: DeviceWorker) -> Callable[..., Pending]:
        dispatch = worker.dispatch

        def note(call: StepCall) -> Pending:
            if call.bucket.is_decode:
                sent[device].append(call)
            return dispatch(call)

        return note

    with contextlib.ExitStack() as stack:
        for device, worker in harness.workers.items():
            stack.enter_context(replaced(worker, "dispatch", noting(device, worker)))
        yield sent


def _replay(
    harness: FleetHarness, sent: dict[DeviceGroupId, list[StepCall]], *, steps: int
) -> list[float]:
    """The last `steps` of every instance again: launch all, fetch those before."""
    used = [
        (harness.workers[device], own[-steps - 1 :])
        for device, own in sent.items()
        if own
    ]
    before: list[Pending] = []
    times = []
    for at in range(steps + 1):
        launched = [worker.dispatch(own[at]) for worker, own in used]
        for pending in before:
            pending.tokens()
        times.append(time.perf_counter())
        before = launched
    for pending in before:
        pending.tokens()
    return [after - earlier for earlier, after in itertools.pairwise(times)]


@contextlib.contextmanager
def _timed(harness: FleetHarness, clock: StepClock) -> Iterator[None]:
    """Timers around dispatching and waiting, on every instance."""

    def watched(worker: DeviceWorker) -> Callable[..., Any]:
        dispatch = clock.timed(worker.dispatch, name="dispatch")

        def dispatch_and_watch(*args: Any, **kwargs: Any) -> Any:
            pending = dispatch(*args, **kwargs)
            pending.tokens = clock.timed(pending.tokens, name="wait")
            return pending

        return dispatch_and_watch

    with contextlib.ExitStack() as stack:
        for worker in harness.workers.values():
            stack.enter_context(replaced(worker, "dispatch", watched(worker)))
        yield
