import threading
from dataclasses import replace

import pytest

from mell_jax.engine.frames import Abort, EngineInfo, EngineLoad, StepFrame, Submit
from mell_jax.engine.thread import EngineThread
from mell_jax.serving.observe.progress import ProgressWatch, stop_engine
from mell_jax.worker.compilation import CompilationCounter
from tests.serving.fake_engine import INFO, FakeEngine


class SlowEngine:
    """Has a step that ends when it is told to."""

    infos: tuple[EngineInfo, ...] = (INFO,)
    idle_wait_s = None

    def __init__(self, *, has_work: bool = False) -> None:
        self.has_work = has_work
        self.steps = 0  # as it tells
        self.probed = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(100)
        self.entered = threading.Semaphore(0)
        self.may_leave = threading.Semaphore(0)

    @property
    def is_resting(self) -> bool:
        return not self.has_work

    def submit(self, submit: Submit) -> None: ...

    def abort(self, abort: Abort) -> None: ...

    def close(self) -> None: ...

    def nudge(self) -> None: ...

    def probe(self) -> None:
        self.probed.release()
        assert self.may_answer.acquire(timeout=50)

    def step(self) -> StepFrame | None:
        self.entered.release()
        assert self.may_leave.acquire(timeout=50)
        return None

    def load(self, *, compilations: int = 0) -> EngineLoad:
        return replace(FakeEngine().load(), steps=self.steps)

    def go_round(self) -> None:
        """Ends the round in which it is, and waits for the next one."""
        self.may_leave.release()
        assert self.entered.acquire(timeout=50)


def test_an_idle_engine_that_answers_pings_is_ready_for_ever() -> None:
    engine = SlowEngine()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda frame: None)
    watch = ProgressWatch(thread, stall_s=1.0)  # two looks
    for _ in range(100):
        assert watch.look()
        assert engine.entered.acquire(timeout=50)
        engine.may_leave.release()
    thread.stop()


def test_a_step_that_hangs_makes_an_engine_unready_until_it_ends() -> None:
    engine = SlowEngine()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda frame: None)
    watch = ProgressWatch(thread, stall_s=1.5)  # three looks
    assert watch.look()
    assert engine.entered.acquire(timeout=50)  # it hangs in its first round
    assert [watch.look() for _ in range(5)] == [True, True, True, False, False]
    engine.may_leave.release(2)
    assert engine.entered.acquire(timeout=50)  # the ping of the look that saw it start
    assert watch.look()
    thread.stop()


def test_a_probe_that_hangs_makes_an_idle_engine_unready_until_it_ends() -> None:
    engine = SlowEngine()
    engine.may_leave, engine.may_answer = (
        threading.Semaphore(100),
        threading.Semaphore(0),
    )
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda frame: None)
    watch = ProgressWatch(thread, stall_s=1.5)  # three looks
    for _ in range(10):
        thread.ping()
    assert engine.probed.acquire(timeout=50)
    assert [watch.look() for _ in range(5)] == [True, True, True, False, False]
    rounds = thread.rounds
    engine.may_answer.release()
    while thread.rounds == rounds:  # until the ping of the look that saw it begin
        assert engine.entered.acquire(timeout=50)
    assert watch.look()
    thread.stop()


def test_an_engine_that_goes_round_without_a_step_is_unready_until_it_makes_one() -> (
    None
):
    engine = SlowEngine(has_work=True)
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda frame: None)
    watch = ProgressWatch(thread, stall_s=1.5)  # three looks
    assert engine.entered.acquire(timeout=50)
    for is_ready in (True, True, True, False, False, False):
        assert watch.look() is is_ready
        engine.go_round()
    for _ in range(10):
        engine.steps += 1
        engine.go_round()
        assert watch.look()
    engine.has_work = False
    engine.go_round()  # what was left is done
    assert watch.look()
    engine.may_leave.release(2)
    thread.stop()


def test_an_engine_that_hangs_is_left(caplog: pytest.LogCaptureFixture) -> None:
    engine = SlowEngine()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda frame: None)
    thread.ping()
    assert engine.entered.acquire(timeout=50)
    stop_engine(thread, wait_s=0.01)
    assert "the engine's step does not end" in caplog.text
    engine.may_leave.release(10)
    thread.stop()
