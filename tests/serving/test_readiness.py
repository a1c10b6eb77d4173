"""Readiness of real engines: a stall is told, and nothing else is taken for one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mell_jax.engine.admin import Drain, Snapshot
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import (
    EngineStopped,
    FinishReason,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.serving.observe.progress import ProgressWatch
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import toy_engine

STALL_S = 1.0  # two looks
HERE = DeviceGroupId(0)
THREE_MODELS = {ModelId("one"): 1, ModelId("two"): 2, ModelId("three"): 3}


class Watched:
    """An engine on its thread, and what health would tell of it."""

    def __init__(self, thread: EngineThread) -> None:
        self.thread = thread
        self.ended: set[int] = set()
        self._watch = ProgressWatch(thread, stall_s=STALL_S)

    def read(self, said: StepFrame | EngineStopped) -> None:
        if isinstance(said, StepFrame):
            assert {end.reason for end in said.finished} <= {FinishReason.LENGTH}
            self.ended.update(end.handle for end in said.finished)

    def look(self) -> bool:
        """A look, and at least one whole round of the engine."""
        is_ready = self._watch.look()
        for _ in range(2):  # messages are taken once a round
            self.thread.ask(Snapshot()).result(50)
        return is_ready


@contextmanager
def running(engine: Fleet) -> Iterator[Watched]:
    thread = EngineThread(engine, compilations=CompilationCounter())
    watched = Watched(thread)
    thread.start(watched.read)
    try:
        yield watched
    finally:
        thread.stop()


def request(handle: int, *, count: int = 100, model: str = "") -> Submit:
    return Submit(
        handle=Handle(handle),
        prompt=np.array([handle + 1] * 20, np.int32),
        params=SamplingParams(temperature=0.0, max_tokens=count),
        model=model,
    )


class Late:
    """A weight that does not arrive."""

    def is_ready(self) -> bool:
        return False

    def is_deleted(self) -> bool:
        return False


def test_a_fleet_whose_only_row_stands_still_is_not_ready() -> None:
    fleet = toy_fleet(devices=1)
    fleet.submit(request(1))
    for _ in range(5):
        fleet.step()
    instance = fleet.instances[HERE]
    (serial,) = instance.requests
    instance.inner.grants.hold(serial)
    for _ in range(3):
        fleet.step()  # what was in flight
    assert fleet.has_work
    with running(fleet) as watched:
        assert [watched.look() for _ in range(6)][2:] == [False] * 4


def test_an_instance_that_opens_raises_no_alarm_but_one_that_never_does_will() -> None:
    fleet = toy_fleet(devices=1)
    fleet.submit(request(1))
    worker = fleet.instances[HERE].inner.worker
    weights, worker.held._arrays = worker.held.arrays, (Late(),)
    with running(fleet) as watched:
        looks = [watched.look()]
        while looks[-1]:  # the toy's clock goes on by a quarter of a second a round
            looks.append(watched.look())
            assert len(looks) < 10_000
        assert len(looks) > 120
        assert [watched.look() for _ in range(5)] == [False] * 5
        worker.held._arrays = weights
        while 1 not in watched.ended:
            watched.look()
        assert watched.look()


def test_a_loaded_engine_is_ready_all_the_time() -> None:
    with running(toy_engine(num_pages=30)) as watched:
        for handle in range(12):  # more than fit: some are preempted
            watched.thread.send(request(handle))
        while len(watched.ended) < 12:
            assert watched.look()


def test_a_fleet_is_ready_while_requests_move_every_step() -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1)), num_pages=20)
    with running(fleet) as watched:
        for handle in range(12):
            watched.thread.send(request(handle))
        while len(watched.ended) < 12:
            assert watched.look()


def test_models_that_take_turns_raise_no_alarm() -> None:
    fleet = toy_fleet(devices=1, factors=THREE_MODELS)
    with running(fleet) as watched:
        for handle in range(12):
            model = ("one", "two", "three")[handle % 3]
            watched.thread.send(request(handle, model=model))
        while len(watched.ended) < 12:
            assert watched.look()


def test_a_device_that_is_drained_raises_no_alarm() -> None:
    fleet = toy_fleet(devices=2, num_pages=30)
    with running(fleet) as watched:
        for handle in range(6):
            watched.thread.send(request(handle))
        assert watched.look()
        watched.thread.ask(Drain(device=1)).result(50)
        while len(watched.ended) < 6:
            assert watched.look()


@pytest.mark.parametrize("make", [toy_engine, toy_fleet])
def test_an_idle_engine_is_ready(make: Callable[[], Fleet]) -> None:
    with running(make()) as watched:
        watched.thread.send(request(1, count=3))
        for _ in range(100):
            assert watched.look()
        assert watched.ended == {1}
