"""Devices without work are asked now and then whether they still live."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import EngineLoad, EngineStopped, Handle, StepFrame, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import PROBE_PINGS, EngineThread
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.device import DeviceWorker
from tests.engine.fleet.test_fleet import assert_at_rest, run
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.engine.test_admin import NONE_LEFT, Idle
from tests.toy import GREEDY, expected, generate, only, submit, toy_engine


class Counting(Idle):
    """Tells of every round; was it one with a probe?"""

    def __init__(self) -> None:
        super().__init__(NONE_LEFT)
        self.rounds: list[str] = []
        self.busy_rounds = 0
        self.went_round = threading.Semaphore(0)

    def probe(self) -> None:
        self.rounds.append("probe")

    def step(self) -> StepFrame | None:
        self.rounds.append("step")
        self.busy_rounds -= 1
        self.has_work = self.busy_rounds > 0
        self.went_round.release()
        return None


def ping(thread: EngineThread, engine: Counting, *, count: int) -> list[str]:
    """What the engine did in so many rounds."""
    engine.rounds.clear()
    for _ in range(count):
        thread.ping()
        assert engine.went_round.acquire(timeout=50)
    return engine.rounds


def test_every_tenth_ping_of_an_idle_engine_is_a_probe() -> None:
    engine = Counting()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda _: None)
    assert PROBE_PINGS == 10
    for _ in range(3):
        assert ping(thread, engine, count=9) == ["step"] * 9
        assert ping(thread, engine, count=1) == ["probe", "step"]
    thread.stop()


class Leaking(Counting):
    """Says that pages are in use, without a request."""

    def load(self, *, compilations: int = 0) -> EngineLoad:
        return replace(super().load(compilations=compilations), used_pages=3)


def test_pages_in_use_by_nobody_are_counted_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Leaking()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda _: None)
    ping(thread, engine, count=9)
    assert thread.load().invariant_violations == 0
    ping(thread, engine, count=11)  # two looks
    thread.stop()
    assert thread.load().invariant_violations == 2
    assert caplog.text.count("3 pages are in use by no request") == 2


@pytest.mark.parametrize("make", [toy_engine, toy_fleet])
def test_engines_that_have_worked_have_no_page_in_use(
    make: Callable[[], Fleet], caplog: pytest.LogCaptureFixture
) -> None:
    engine, rounds, ended = make(), threading.Semaphore(0), threading.Event()
    thread = EngineThread(engine, compilations=CompilationCounter())
    probe = engine.probe

    def counted() -> None:
        probe()
        rounds.release()

    def sink(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, StepFrame) and frame.finished:
            ended.set()

    engine.probe = counted  # type: ignore[method-assign]
    thread.start(sink)
    prompt = np.arange(1, 40, dtype=np.int32)
    thread.send(Submit(handle=Handle(1), prompt=prompt, params=GREEDY))
    assert ended.wait(50)
    for _ in range(2):
        for _ in range(PROBE_PINGS):
            thread.ping()
        assert rounds.acquire(timeout=50)
    thread.stop()
    assert thread.load().invariant_violations == 0
    assert "in use by no request" not in caplog.text


def test_an_engine_that_has_worked_is_not_probed_soon() -> None:
    engine = Counting()
    thread = EngineThread(engine, compilations=CompilationCounter())
    thread.start(lambda _: None)
    ping(thread, engine, count=9)
    engine.has_work, engine.busy_rounds = True, 20
    thread.ping()
    for _ in range(20):  # it goes round by itself
        assert engine.went_round.acquire(timeout=50)
    assert "probe" not in engine.rounds
    assert ping(thread, engine, count=9) == ["step"] * 9
    assert ping(thread, engine, count=1) == ["probe", "step"]
    thread.stop()


def counts(load: EngineLoad) -> tuple[int, ...]:
    return load.steps, load.generated_tokens, load.used_pages, load.preemptions


@pytest.mark.parametrize("make", [toy_engine, toy_fleet])
def test_a_probe_leaves_nothing_behind(make: Callable[[], Fleet]) -> None:
    engine = make()
    for handle, prompt in enumerate(([1, 2, 3], [4] * 40)):
        submit(engine, prompt, handle=handle, params=GREEDY)
    while engine.has_work:
        engine.step()
    workers = workers_of(engine)
    pools = [np.array(worker.pool)[1:] for worker in workers]
    assert any(pool.any() for pool in pools)
    before, compilations = counts(engine.load()), CompilationCounter()
    times = engine.times.frozen()
    for _ in range(3):
        engine.probe()
    assert compilations.count == 0
    assert counts(engine.load()) == before
    assert engine.times.frozen() == times
    assert not engine.has_work and engine.is_resting and engine.step() is None
    for worker, pool in zip(workers, pools, strict=True):
        assert np.array_equal(np.array(worker.pool)[1:], pool)


def workers_of(engine: Fleet) -> list[DeviceWorker]:
    return [instance.inner.worker for instance in engine.instances.values()]


def test_answers_are_the_same_between_probes() -> None:
    engine = toy_engine()
    for _ in range(3):
        engine.probe()
        prompts = [[n + 1] * (n * 9 + 1) for n in range(9)]
        answers = generate(
            engine, prompts, params=SamplingParams(temperature=0.0, max_tokens=9)
        )
        assert answers == [expected(prompt, count=9) for prompt in prompts]


def kill(worker: DeviceWorker) -> None:
    """From now on every step raises, as on a device that has gone."""
    worker.pool.delete()


def test_an_idle_device_that_has_died_ends_its_engine() -> None:
    engine = toy_engine()
    generate(engine, [[1]], params=GREEDY)  # opens the instance
    thread = EngineThread(engine, compilations=CompilationCounter())
    said: list[StepFrame | EngineStopped] = []
    ended = threading.Event()

    def sink(frame: StepFrame | EngineStopped) -> None:
        said.append(frame)
        ended.set()

    thread.start(sink)
    kill(only(engine).worker)
    for _ in range(PROBE_PINGS):
        thread.ping()
    assert ended.wait(50)
    (last,) = said
    assert isinstance(last, EngineStopped)
    assert last.message.startswith("the engine failed: RuntimeError: ")
    assert "deleted" in last.message


def ask(fleet: Fleet, handle: int) -> None:
    fleet.submit(
        Submit(
            handle=Handle(handle),
            prompt=np.array([handle + 1] * 40, np.int32),
            params=SamplingParams(temperature=0.0, max_tokens=80),
        )
    )


def test_an_idle_device_that_has_died_is_fenced_and_others_serve() -> None:
    fleet = toy_fleet(devices=3, num_pages=17)
    for handle in range(6):
        ask(fleet, handle)
    run(fleet)
    first, *others = fleet.instances
    assert others, "one instance was enough"
    kill(fleet.instances[first].inner.worker)
    fleet.probe()
    assert list(fleet.instances) == others
    assert fleet.stats().losses == 1
    for handle in range(6, 12):
        ask(fleet, handle)
    seen = run(fleet)
    for handle in range(6, 12):
        assert seen.tokens[handle] == expected([handle + 1] * 40, count=80)
    assert first not in fleet.instances
    assert_at_rest(fleet)


def test_a_fleet_whose_last_idle_device_has_died_ends() -> None:
    fleet = toy_fleet(devices=1)
    ask(fleet, 1)
    run(fleet)
    kill(fleet.instances[DeviceGroupId(0)].inner.worker)
    fleet.probe()
    with pytest.raises(RuntimeError, match="every device of the fleet has failed"):
        fleet.step()


def test_an_instance_that_is_parked_or_opens_is_not_probed() -> None:
    fleet = toy_fleet(devices=2)
    fleet.probe()  # none is open
    ask(fleet, 1)
    worker = fleet.instances[DeviceGroupId(0)].inner.worker
    weights, worker.held._arrays = worker.held.arrays, (NeverThere(),)
    fleet.probe()
    worker.held._arrays = weights
    assert run(fleet).tokens[1] == expected([2] * 40, count=80)
    assert fleet.stats().losses == 0


class NeverThere:
    """A weight that has not arrived; a step would choke on it."""

    def is_ready(self) -> bool:
        return False

    def is_deleted(self) -> bool:
        return False
