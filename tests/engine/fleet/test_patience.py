"""A device that gives no result keeps the others for a moment, once, and is fenced."""

import threading

import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.patience import Patience, StalledError
from mell_jax.engine.fleet_view import GroupState
from mell_jax.engine.frames import StepFrame
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.serving.observe.progress import ProgressWatch
from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.device import Pending
from tests.engine.fleet.test_fleet import assert_at_rest, greedy
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit

STUCK = DeviceGroupId(1)
PROMPTS = [[n + 1] * 40 for n in range(8)]


def test_what_is_late_is_said_once_until_it_comes() -> None:
    patience = Patience(stall_s=60.0)
    assert [patience.look("a", now_s=now_s) for now_s in (0.0, 0.9)] == [False, False]
    assert not patience.is_tried
    assert [patience.look("a", now_s=now_s) for now_s in (1.0, 1.1)] == [True, False]
    assert patience.is_tried
    patience.forget("a")
    assert not patience.is_tried
    assert not patience.look("a", now_s=59.0)  # the next result


def test_what_never_comes_is_given_up() -> None:
    patience = Patience(stall_s=3.0)
    assert not patience.look("a", now_s=5.0)
    assert patience.look("a", now_s=7.9)
    with pytest.raises(StalledError, match="no result has come for 3 s"):
        patience.look("a", now_s=8.0)
    patience.forget_others(["b"])
    assert not patience.is_tried
    assert not patience.look("a", now_s=9.0)


def stalling(*, step: int, stall_s: float = 5.0, devices: int = 3) -> Fleet:
    """A fleet whose second device hangs; its clock goes on by 0.25 s a step."""
    fault = Fault(stall_on=(STUCK, step))
    return toy_fleet(
        devices=devices,
        num_pages=17,
        config=FleetConfig(fault=fault, stall_s=stall_s),
    )


@pytest.mark.parametrize("step", [1, 2, 9, 30])
def test_others_go_on_beside_a_device_that_hangs(step: int) -> None:
    fleet = stalling(step=step)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(60))
    seen, alone = Transcript(), 0
    while fleet.has_work:
        before = sum(map(len, seen.tokens.values()))
        seen.read(fleet.step())
        fleet.machine.ledger.check()
        if fleet._pace.patience.is_tried and STUCK in fleet.instances:
            alone += sum(map(len, seen.tokens.values())) > before
    assert alone > 10  # steps that brought tokens while it was stuck
    assert seen.tokens == {
        handle: expected(prompt, count=60) for handle, prompt in enumerate(PROMPTS)
    }
    assert STUCK not in fleet.instances
    view = fleet.load().fleet
    assert view is not None
    assert view.instances[STUCK].state is GroupState.LOST
    assert (view.stats.losses, view.stats.replays > 0) == (1, True)
    assert isinstance(fleet.conductor.last_error, StalledError)
    assert_at_rest(fleet)


def test_a_device_that_is_late_and_comes_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = stalling(step=9, stall_s=1000.0)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(60))
    seen = Transcript()
    while not fleet._pace.patience.is_tried:
        seen.read(fleet.step())
    for _ in range(5):
        seen.read(fleet.step())
    monkeypatch.setattr(fleet._pace, "_see", lambda instance, pending: pending)
    while fleet.has_work:
        seen.read(fleet.step())
    assert seen.tokens == {
        handle: expected(prompt, count=60) for handle, prompt in enumerate(PROMPTS)
    }
    assert fleet.stats().losses == 0
    assert not fleet._pace.patience.is_tried


@pytest.mark.parametrize("hangs", [False, True])
def test_an_idle_device_of_a_busy_fleet_is_probed(hangs: bool) -> None:
    fault = Fault(stall_on=(STUCK, 20)) if hangs else Fault()
    fleet = toy_fleet(
        devices=2,
        factors={ModelId("one"): 1, ModelId("two"): 2},
        config=FleetConfig(fault=fault, stall_s=5.0),
    )
    submit(fleet, [7] * 20, handle=1, params=greedy(100), model="one")
    submit(fleet, [7] * 20, handle=2, params=greedy(3), model="two")
    idle = fleet.instances[STUCK]
    probes, probe = [], idle.inner.worker.probe

    def count() -> Pending:
        probes.append(fleet._pace.steps)
        return probe()

    idle.inner.worker.probe = count  # type: ignore[method-assign]
    seen = Transcript()
    while fleet.has_work:
        seen.read(fleet.step())
    assert probes and probes[0] <= 30
    assert seen.tokens == {
        1: expected([7] * 20, count=100),
        2: expected([7] * 20, count=3, factor=2),
    }
    assert (STUCK in fleet.instances) is not hangs
    assert fleet.stats().losses == hangs


def test_an_engine_with_a_device_that_hangs_stays_ready() -> None:
    fleet = stalling(step=5, stall_s=50.0)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(60))
    seen, is_over = Transcript(), threading.Event()

    def read(said: object) -> None:
        if isinstance(said, StepFrame):
            seen.read(said)
            if len(seen.finished) == len(PROMPTS):
                is_over.set()

    thread = EngineThread(fleet, compilations=CompilationCounter())
    watch = ProgressWatch(thread, stall_s=20.0)
    thread.start(read)
    looks = []
    while not is_over.wait(0.1):
        looks.append(watch.look())
        assert len(looks) < 600
    thread.stop()
    assert all(looks)
    assert fleet.stats().losses == 1
