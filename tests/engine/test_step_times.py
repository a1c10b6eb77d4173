"""Where the time of a step goes."""

import threading
import time

import numpy as np

from mell_jax.engine.frames import EngineStopped, Handle, StepFrame, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.step_times import BOUNDS_S, StepPhase, StepTimes
from mell_jax.engine.thread import EngineThread
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import generate, run, submit, toy_engine

PARAMS = SamplingParams(temperature=0.0, max_tokens=6)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_phase_lasts_from_the_one_before_to_its_end() -> None:
    clock = Clock()
    times = StepTimes(clock=clock)
    clock.now_s += 50.0  # nobody asked
    times.begin()
    clock.now_s += 0.25
    times.end(StepPhase.PLAN)
    clock.now_s += 7.0
    times.end(StepPhase.LAUNCH)
    seen = times.frozen()
    assert list(seen) == ["plan", "launch", "wait", "land", "emit"]
    assert (seen["plan"].count, seen["plan"].total) == (1, 0.25)
    assert seen["plan"].counts[BOUNDS_S.index(0.5)] == 1
    assert (seen["launch"].count, seen["launch"].total) == (1, 7.0)
    assert seen["launch"].counts[-1] == 1  # above all bounds
    assert seen["wait"].count == 0


def test_what_is_frozen_is_kept_for_half_a_second() -> None:
    clock = Clock()
    times = StepTimes(clock=clock)
    first = times.frozen(anew=False)
    clock.now_s += 0.25
    times.end(StepPhase.PLAN)
    assert times.frozen(anew=False) is first
    assert first["plan"].count == 0
    assert times.frozen(anew=True)["plan"].count == 1
    clock.now_s += 0.5
    times.end(StepPhase.PLAN)
    assert times.frozen(anew=False)["plan"].count == 2


def test_every_step_of_an_engine_is_counted_once() -> None:
    engine = toy_engine()
    generate(engine, [[1, 2, 3]], params=PARAMS)
    load = engine.load()
    assert load.phases is not None
    counts = {phase: seconds.count for phase, seconds in load.phases.items()}
    steps = load.steps
    assert steps >= 6
    assert counts == {
        "plan": steps,
        "launch": steps,
        "wait": steps,
        "land": steps,
        "emit": 0,  # there is no thread
    }


def test_steps_of_all_instances_are_counted_together() -> None:
    fleet = toy_fleet(devices=2, rows=1)
    for handle in range(2):
        submit(fleet, [1, 2, 3], handle=handle, params=PARAMS)
    run(fleet)
    load = fleet.load()
    assert load.phases is not None
    assert load.steps >= 12
    assert load.phases["land"].count == load.phases["plan"].count == load.steps
    assert load.phases["wait"].count >= load.steps  # and where all were waited for


def test_the_thread_counts_what_it_tells() -> None:
    engine = toy_engine()
    thread = EngineThread(engine, compilations=CompilationCounter(), times=engine.times)
    frames, is_over = [], threading.Event()

    def sink(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, StepFrame):
            frames.append(frame)
            if frame.finished:
                is_over.set()

    thread.start(sink)
    thread.send(
        Submit(handle=Handle(1), prompt=np.array([1, 2, 3], np.int32), params=PARAMS)
    )
    assert is_over.wait(timeout=50)
    thread.stop()
    assert engine.times.frozen()["emit"].count == len(frames)


def test_a_step_pays_less_than_ten_microseconds() -> None:
    times, rounds = StepTimes(), 20_000
    start_s = time.process_time()
    for _ in range(rounds):
        times.begin()
        times.end(StepPhase.PLAN)
        times.end(StepPhase.LAUNCH)
        times.begin()
        times.end(StepPhase.WAIT)
        times.end(StepPhase.LAND)
        times.begin()
        times.end(StepPhase.EMIT)
        times.frozen(anew=False)
    assert (time.process_time() - start_s) / rounds < 10e-6
