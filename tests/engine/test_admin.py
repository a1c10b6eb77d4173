"""Administration of a fleet of one, and how commands get to an engine's thread."""

import threading
from concurrent.futures import CancelledError

import pytest

from mell_jax.engine.admin import (
    Answer,
    Command,
    DeviceStatus,
    Drain,
    ListPlacements,
    Migrate,
    Picture,
    Placement,
    Placements,
    PolicyChange,
    SetPolicy,
    Snapshot,
    Undrain,
)
from mell_jax.engine.fleet_view import GroupState
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    StepFrame,
    Submit,
)
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from mell_jax.worker.compilation import CompilationCounter
from tests.toy import expected, run, submit, toy_engine

LONG = SamplingParams(temperature=0.0, max_tokens=60)


def test_an_engine_of_one_instance_can_be_looked_at() -> None:
    engine = toy_engine()
    for handle in range(9):  # one more than it has rows
        submit(engine, [handle + 1] * 20, handle=handle + 100, params=LONG)
    engine.step()
    answer = engine.administer(ListPlacements(device=0, model="toy", max_results=1))
    assert isinstance(answer, Placements)
    assert answer.total == 8
    assert answer.placements == (
        Placement(
            request=0,
            handle=100,
            model="toy",
            device=0,
            target=None,
            pages=2,
            prompt_tokens=20,
            is_paused=False,
        ),
    )
    everywhere = engine.administer(ListPlacements(model="toy", max_results=9))
    assert isinstance(everywhere, Placements) and everywhere.total == 9
    assert [each.device for each in everywhere.placements].count(None) == 1
    picture = engine.administer(Snapshot())
    assert isinstance(picture, Picture) and picture.policy == "consolidate"
    (instance,) = picture.view.instances
    assert (instance.state, instance.model) == (GroupState.SERVING, "toy")
    assert instance.running + instance.waiting == 8
    assert [model.waiting for model in picture.view.models] == [1]
    assert picture.view.lower_bound == 1


def test_a_fleet_of_one_has_nowhere_to_move_and_nothing_to_give_back() -> None:
    engine = toy_engine()
    submit(engine, [1] * 20, handle=1, params=LONG)
    with pytest.raises(UnknownTargetError, match="there is no device 1"):
        engine.administer(Migrate(request=0, device=1))
    with pytest.raises(NotPossibleError, match="device 0 is the last one that serves"):
        engine.administer(Drain(device=0))
    status = DeviceStatus(state=GroupState.SERVING, requests_left=1)
    assert engine.administer(Undrain(device=0)) == status
    assert engine.administer(SetPolicy(policy="mell")) == PolicyChange(
        policy="mell", before="consolidate", look_s=2.0
    )
    assert run(engine).tokens[1] == expected([1] * 20, count=60)


@pytest.mark.parametrize(
    "command", [ListPlacements(device=1), ListPlacements(model="other")]
)
def test_what_is_not_there_is_not_found(command: Command) -> None:
    with pytest.raises(UnknownTargetError):
        toy_engine().administer(command)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_a_list_has_a_size_that_can_be(count: int) -> None:
    with pytest.raises(ValueError, match="max_results must be from 1 to 10000"):
        ListPlacements(max_results=count)


class Idle:
    """An engine with nothing to do but to answer commands."""

    infos: tuple[EngineInfo, ...] = ()
    has_work = False
    is_resting = True
    idle_wait_s = None

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[Command] = []

    def nudge(self) -> None: ...

    def administer(self, command: Command) -> Answer:
        self.asked.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def submit(self, submit: Submit) -> None: ...

    def abort(self, abort: Abort) -> None: ...

    def step(self) -> StepFrame | None:
        return None

    def probe(self) -> None: ...

    def close(self) -> None: ...

    def load(self, *, compilations: int = 0) -> EngineLoad:
        return EngineLoad(
            running=0,
            waiting=0,
            waiting_tokens=0,
            used_pages=0,
            cached_pages=0,
            free_pages=0,
            generated_tokens=0,
            prefix_hit_tokens=0,
            prefix_query_tokens=0,
            preemptions=0,
            steps=0,
            compilations=compilations,
        )


NONE_LEFT = Placements(placements=(), total=0)


def start(engine: Idle) -> tuple[EngineThread, list[str], threading.Event]:
    """A running thread, what it said at its end, and when it did."""
    thread = EngineThread(engine, compilations=CompilationCounter())
    said: list[str] = []
    ended = threading.Event()

    def sink(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, EngineStopped):
            said.append(frame.message)
            ended.set()

    thread.start(sink)
    return thread, said, ended


def test_a_command_is_answered_by_the_engines_thread() -> None:
    engine = Idle(NONE_LEFT)
    thread, _, _ = start(engine)
    assert thread.ask(ListPlacements()).result(20) is NONE_LEFT
    thread.stop()


@pytest.mark.parametrize(
    "error", [NotPossibleError("not now"), UnknownTargetError("not here")]
)
def test_a_refusal_comes_back_and_the_engine_goes_on(error: Exception) -> None:
    engine = Idle(error)
    thread, said, _ = start(engine)
    for _ in range(2):
        with pytest.raises(type(error), match="not"):
            thread.ask(Drain(device=1)).result(20)
    thread.stop()
    assert said == [""]


def test_an_engine_that_breaks_over_a_command_ends() -> None:
    engine = Idle(ZeroDivisionError("a bug"))
    thread, said, ended = start(engine)
    with pytest.raises(ZeroDivisionError):
        thread.ask(Snapshot()).result(20)
    assert ended.wait(20)
    assert said == ["the engine failed: ZeroDivisionError: a bug"]
    with pytest.raises(NotPossibleError, match="the engine has stopped"):
        thread.ask(Snapshot()).result(20)


def test_a_command_that_nobody_waits_for_is_not_carried_out() -> None:
    engine = Idle(NONE_LEFT)
    thread = EngineThread(engine, compilations=CompilationCounter())
    given_up = thread.ask(Drain(device=0))
    assert given_up.cancel()
    kept = thread.ask(Snapshot())
    thread.start(lambda _: None)
    assert kept.result(20) is NONE_LEFT
    thread.stop()
    assert engine.asked == [Snapshot()]
    with pytest.raises(CancelledError):
        given_up.result(0)


def test_commands_that_come_after_the_stop_are_refused() -> None:
    engine = Idle(NONE_LEFT)
    thread, _, _ = start(engine)
    thread.stop()
    with pytest.raises(NotPossibleError, match="the engine has stopped"):
        thread.ask(Snapshot()).result(20)
    assert engine.asked == []
