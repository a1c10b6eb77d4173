"""What a paused engine does, and what it does not."""

import threading
from concurrent.futures import Future

import pytest

from mell_jax.engine.admin import (
    AbortOpen,
    Answer,
    AskServing,
    NameWeights,
    Pause,
    RequestsAborted,
    ResetPrefixCache,
    Resume,
    Sleep,
    Wake,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.serving.observe.progress import ProgressWatch
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.resting import (
    COUNT,
    PROMPTS,
    ask,
    assert_all_said,
    begin,
    busy_fleet,
    run,
    state,
    steps,
)
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit


def test_a_pause_lands_what_is_in_flight_and_then_all_is_still() -> None:
    fleet, seen = busy_fleet()
    answer = ask(fleet, Pause())
    assert not answer.done()
    run(fleet, seen)
    assert state(answer).is_paused
    assert fleet.is_resting
    before, used = dict(seen.tokens), fleet.load().used_pages
    counts = {handle: len(tokens) for handle, tokens in before.items()}
    assert used > 6
    steps(fleet, seen, count=20)
    assert {handle: len(tokens) for handle, tokens in seen.tokens.items()} == counts
    assert fleet.load().used_pages == used
    assert not state(ask(fleet, Resume())).is_paused
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)
    assert fleet.stats().preemptions == fleet.stats().replays == 0


def test_requests_wait_in_line_while_it_is_paused() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    assert ask(fleet, Pause()).done()  # nothing was in flight
    begin(fleet, 0, 1)
    assert fleet.load().waiting == state(ask(fleet, AskServing())).waiting == 2
    begin(fleet, 0)
    fleet.abort(Abort(handles=(Handle(1),)))
    run(fleet, seen)
    assert seen.finished[1].reason is FinishReason.ABORT
    assert "in use" in seen.finished[0].message
    del seen.finished[0]
    assert not fleet.instances
    ask(fleet, Resume())
    run(fleet, seen)
    assert_all_said(seen, 0)


def test_a_pause_that_waits_is_answered_after_the_last_open_request() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    begin(fleet, 0, 1)
    steps(fleet, seen, count=5)
    answer = ask(fleet, Pause(mode="wait"))
    begin(fleet, 2)
    while not answer.done():
        assert len(seen.finished) < 2 or fleet.has_work
        seen.read(fleet.step())
    assert_all_said(seen, 0, 1)
    assert 2 not in seen.tokens
    assert not fleet.has_work
    ask(fleet, Resume())
    run(fleet, seen)
    assert_all_said(seen, 0, 1, 2)


def test_a_pause_that_aborts_ends_open_requests_and_those_in_line() -> None:
    fleet, seen = busy_fleet()
    ask(fleet, Pause())
    run(fleet, seen)
    params = SamplingParams(temperature=0.0)
    submit(fleet, [1], handle=9, params=params)
    assert state(ask(fleet, Pause(mode="abort"))).is_paused
    run(fleet, seen)
    assert len(seen.finished) == 7
    assert {end.reason for end in seen.finished.values()} == {FinishReason.ABORT}
    assert fleet.load().used_pages == 0
    assert fleet.conductor.is_at_rest
    ask(fleet, Resume())
    answer = ask(fleet, AbortOpen()).result(timeout=0)
    assert answer == RequestsAborted(aborted=0)


def test_a_pause_that_is_resumed_before_it_began_is_answered() -> None:
    fleet, seen = busy_fleet()
    answer = ask(fleet, Pause())
    ask(fleet, Resume())
    assert not state(answer).is_paused
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


def test_moves_go_on_in_a_pause() -> None:
    fleet, seen = busy_fleet(config=FleetConfig(fault=Fault(move_every=1)))
    ask(fleet, Pause())
    run(fleet, seen)
    steps(fleet, seen, count=10)
    ask(fleet, Resume())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


def test_a_device_that_is_lost_before_all_is_still_does_not_come_back() -> None:
    config = FleetConfig(fault=Fault(raise_on=(DeviceGroupId(1), 6)))
    fleet, seen = busy_fleet(config=config)
    run_once = fleet.step()
    seen.read(run_once)
    ask(fleet, Sleep())
    run(fleet, seen)
    ask(fleet, Wake())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)
    assert set(fleet.instances) == {0}
    assert fleet.stats().losses == 1


def test_the_prefix_cache_is_forgotten_in_use_or_not() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    begin(fleet, 0)
    steps(fleet, seen, count=5)
    answer = ask(fleet, ResetPrefixCache()).result(timeout=0)
    assert answer.pages == 2  # type: ignore[union-attr]
    params = SamplingParams(temperature=0.0, max_tokens=3)
    submit(fleet, PROMPTS[0], handle=1, params=params)
    run(fleet, seen)
    assert seen.prompts[1].cached_tokens == 0
    assert_all_said(seen, 0)
    assert fleet.load().used_pages == 0


def test_weights_are_renamed_from_the_next_step_on() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    begin(fleet, 0)
    while 0 not in seen.tokens:
        seen.read(fleet.step())
    (info,) = state(ask(fleet, NameWeights(version="night"))).weights
    assert (info.version, info.updates) == ("night", 0)
    run(fleet, seen)
    assert seen.versions[0][:2] == ["0", "0"]
    assert seen.versions[0][2:] == ["night"] * (COUNT - 2)
    assert_all_said(seen, 0)


class Sink:
    """Tells a thread that waits of frames with an end."""

    def __init__(self) -> None:
        self.seen = Transcript()
        self.has_ended = threading.Event()

    def __call__(self, frame: object) -> None:
        self.seen.read(frame if hasattr(frame, "handles") else None)  # type: ignore[arg-type]
        if self.seen.finished:
            self.has_ended.set()


def test_a_paused_thread_is_healthy_and_answers_later() -> None:
    fleet, sink = toy_fleet(devices=2), Sink()
    begin(fleet, 0, count=80)
    thread = EngineThread(fleet, compilations=CompilationCounter())
    thread.start(sink)
    assert state(wait(thread.ask(Pause()))).is_paused
    watch = ProgressWatch(thread, stall_s=1.0)
    for _ in range(6):
        assert watch.look()
        before = thread.rounds
        while thread.rounds == before:
            pass
    for _ in range(12):
        thread.ping()
    assert not sink.has_ended.is_set()
    assert thread.load().invariant_violations == 0
    assert thread.load().running == 1
    thread.ask(Resume())
    assert sink.has_ended.wait(50)
    assert sink.seen.tokens[0] == expected(PROMPTS[0], count=80)
    thread.stop()


def test_an_answer_that_is_owed_is_refused_when_the_engine_stops() -> None:
    fleet = toy_fleet(devices=1)
    begin(fleet, 0, count=80)
    instance = fleet.instances[DeviceGroupId(0)].inner
    (serial,) = instance.requests
    instance.grants.hold(serial)  # it never ends
    thread = EngineThread(fleet, compilations=CompilationCounter())
    thread.start(lambda _: None)
    owed = thread.ask(Pause(mode="wait"))
    wait(thread.ask(AskServing()))
    thread.stop()
    with pytest.raises(NotPossibleError, match="has stopped"):
        owed.result(timeout=50)


def wait(answer: Future[Answer]) -> Future[Answer]:
    answer.result(timeout=50)
    return answer
