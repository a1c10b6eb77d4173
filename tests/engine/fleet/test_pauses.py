"""What a paused and a sleeping engine does, and what it does not."""

import threading
from concurrent.futures import Future

import pytest

from mell_jax.engine.admin import (
    AbortOpen,
    Answer,
    AskServing,
    Command,
    Drain,
    NameWeights,
    NotPossibleError,
    Pause,
    RequestsAborted,
    ResetPrefixCache,
    Resume,
    ServingState,
    Sleep,
    Undrain,
    UpdateWeights,
    Wake,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.serving.observe.progress import ProgressWatch
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import TOY, toy_fleet
from tests.engine.fleet.versioned import ToyWeights
from tests.toy import Transcript, expected, submit

PROMPTS = {handle: [handle + 1] * 40 for handle in range(6)}
COUNT = 30


def begin(fleet: Fleet, *handles: int, count: int = COUNT) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=count)
    for handle in handles:
        submit(fleet, PROMPTS[handle], handle=handle, params=params)


def run(fleet: Fleet, seen: Transcript) -> None:
    while fleet.has_work:
        seen.read(fleet.step())
        fleet.machine.ledger.check()


def steps(fleet: Fleet, seen: Transcript, *, count: int) -> None:
    for _ in range(count):
        seen.read(fleet.step())


def ask(fleet: Fleet, command: Command) -> Future[Answer]:
    """The answer that a command will have."""
    answer = fleet.administer(command)
    if isinstance(answer, Future):
        return answer
    done: Future[Answer] = Future()
    done.set_result(answer)
    return done


def state(answer: Future[Answer]) -> ServingState:
    found = answer.result(timeout=0)
    assert isinstance(found, ServingState)
    return found


def busy_fleet(**more: object) -> tuple[Fleet, Transcript]:
    """Six requests on two devices, in the middle of their answers."""
    fleet, seen = toy_fleet(devices=2, num_pages=17, **more), Transcript()  # type: ignore[arg-type]
    begin(fleet, *PROMPTS)
    steps(fleet, seen, count=5)
    assert len(fleet.instances) == 2
    return fleet, seen


def assert_all_said(seen: Transcript, *handles: int) -> None:
    for handle in handles:
        assert seen.tokens[handle] == expected(PROMPTS[handle], count=COUNT)
        assert seen.finished[handle].reason is FinishReason.LENGTH


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


def test_a_sleep_gives_the_pools_back_and_requests_go_on_after_it() -> None:
    fleet, seen = busy_fleet()
    pools = [each.inner.worker.pool for each in fleet.instances.values()]
    nbytes = sum(pool.nbytes for pool in pools)
    answer = ask(fleet, Sleep(level=1))
    run(fleet, seen)
    assert state(answer).sleep_level == 1
    assert state(answer).freed_bytes == nbytes
    assert all(pool.is_deleted() for pool in pools)
    assert not fleet.instances
    assert fleet.is_resting
    fleet.machine.ledger.check()
    load = fleet.load()
    assert (load.used_pages, load.running, load.waiting) == (0, 0, 6)
    assert load.fleet is not None
    assert {each.state.name for each in load.fleet.instances} == {"PARKED"}
    steps(fleet, seen, count=10)
    assert not fleet.instances
    assert state(ask(fleet, Wake())).sleep_level == 0
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)
    assert fleet.stats().losses == fleet.stats().replays == 0


@pytest.mark.parametrize("keeps", ["host", "drop"])
def test_a_deep_sleep_gives_the_weights_back(keeps: str) -> None:
    fleet, seen = busy_fleet()
    held = fleet.instance_pool.held(TOY)
    arrays = [array for each in held.values() for array in each.arrays]
    answer = ask(fleet, Sleep(level=2, keeps=keeps))  # type: ignore[arg-type]
    run(fleet, seen)
    freed = state(answer).freed_bytes
    assert (
        freed == sum(each.nbytes for each in held.values()) + 2 * 65 * 2 * 16 * 32 * 4
    )
    (info,) = state(answer).weights
    assert info.is_dropped == (keeps == "drop")
    assert not any(each.device_nbytes for each in held.values())
    if keeps == "drop":
        with pytest.raises(NotPossibleError, match="give new ones by an update"):
            ask(fleet, Wake())
        weights = ToyWeights(fleet, factor=1, scale=1)
        fleet.administer(UpdateWeights(weights=weights, version="again"))
    ask(fleet, Wake())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)
    last = "again" if keeps == "drop" else "0"
    assert {versions[-1] for versions in seen.versions.values()} == {last}
    assert arrays  # what a test refers to is not deleted


def test_dropped_weights_stay_dropped_by_a_sleep_that_would_keep_them() -> None:
    fleet, seen = busy_fleet()
    freed = ask(fleet, Sleep(level=2, keeps="drop"))
    run(fleet, seen)
    again = state(ask(fleet, Sleep(level=2, keeps="host")))
    assert again.weights[0].is_dropped
    assert again.freed_bytes == state(freed).freed_bytes > 0
    fleet.administer(UpdateWeights(weights=ToyWeights(fleet, factor=1, scale=1)))
    ask(fleet, Wake())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


def test_weights_that_came_back_in_a_sleep_are_not_counted_as_freed() -> None:
    fleet = toy_fleet(devices=2)
    first = state(ask(fleet, Sleep(level=2, keeps="drop"))).freed_bytes
    assert first > 0
    fleet.administer(UpdateWeights(weights=ToyWeights(fleet, factor=1, scale=1)))
    assert state(ask(fleet, AskServing())).freed_bytes < first
    assert state(ask(fleet, Sleep(level=2))).freed_bytes == first


def test_weights_in_host_memory_can_be_changed_there() -> None:
    fleet, seen = toy_fleet(devices=2), Transcript()
    ask(fleet, Sleep(level=2))
    weights = ToyWeights(fleet, factor=2, scale=1)
    fleet.administer(UpdateWeights(weights=weights))
    held = fleet.instance_pool.held(TOY)
    assert not any(each.device_nbytes for each in held.values())
    begin(fleet, 0)
    ask(fleet, Wake())
    run(fleet, seen)
    assert seen.tokens[0] == expected(PROMPTS[0], count=COUNT, factor=2)


def test_a_sleeper_that_was_paused_wakes_paused() -> None:
    fleet, seen = busy_fleet()
    ask(fleet, Pause())
    ask(fleet, Sleep())
    run(fleet, seen)
    counts = {handle: len(tokens) for handle, tokens in seen.tokens.items()}
    ask(fleet, Resume())  # asleep all the same
    ask(fleet, Pause())
    assert state(ask(fleet, Wake())).is_paused
    run(fleet, seen)
    steps(fleet, seen, count=5)
    assert {handle: len(tokens) for handle, tokens in seen.tokens.items()} == counts
    ask(fleet, Resume())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


def test_devices_that_were_to_go_are_gone_after_a_sleep() -> None:
    fleet, seen = busy_fleet()
    first = next(iter(fleet.instances))
    fleet.administer(Drain(device=first))
    ask(fleet, Sleep())
    run(fleet, seen)
    for command in (Drain(device=1 - first), Undrain(device=first)):
        with pytest.raises(NotPossibleError, match="sleeps: wake it"):
            fleet.administer(command)
    ask(fleet, Wake())
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)
    assert first not in fleet.instances
    begin_again, seen = {0, 1, 2, 3, 4, 5}, Transcript()
    fleet.administer(Undrain(device=first))
    begin(fleet, *begin_again)
    steps(fleet, seen, count=4)
    assert len(fleet.instances) == 2
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
