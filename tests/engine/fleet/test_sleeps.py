"""What a sleeping engine gives back, and what becomes of its requests."""

import pytest

from mell_jax.engine.admin import (
    AskServing,
    Drain,
    Pause,
    PauseMode,
    Resume,
    Sleep,
    Undrain,
    UpdateWeights,
    Wake,
)
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.placement.operator import NotPossibleError
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
from tests.engine.fleet.toy_fleet import TOY, toy_fleet
from tests.engine.fleet.versioned import ToyWeights
from tests.toy import Transcript, expected, submit


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


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_sleep_that_waits_begins_after_the_last_open_request(is_paused: bool) -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    begin(fleet, 0, 1)
    steps(fleet, seen, count=5)
    if is_paused:
        ask(fleet, Pause())  # they finish all the same
    answer = ask(fleet, Sleep(mode="wait"))
    begin(fleet, 2)
    while not answer.done():
        assert not fleet.conductor.away
        assert fleet.has_work
        seen.read(fleet.step())
    assert_all_said(seen, 0, 1)
    assert (state(answer).waiting, state(answer).sleep_level) == (1, 1)
    assert state(answer).is_paused == is_paused
    ask(fleet, Resume())
    ask(fleet, Wake())
    run(fleet, seen)
    assert_all_said(seen, 2)
    assert fleet.stats().replays == 0


def test_nobody_is_waited_for_in_a_sleep() -> None:
    fleet, seen = busy_fleet()
    ask(fleet, Sleep(level=1))
    run(fleet, seen)
    assert state(ask(fleet, Sleep(level=2, mode="wait"))).sleep_level == 2
    with pytest.raises(NotPossibleError, match="6 open requests cannot be finished"):
        ask(fleet, Pause(mode="wait"))
    assert not state(ask(fleet, Wake())).is_paused
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


def test_a_sleep_that_aborts_ends_open_requests_and_those_in_line() -> None:
    fleet, seen = busy_fleet()
    ask(fleet, Pause())
    submit(fleet, [1], handle=7, params=SamplingParams(max_tokens=3))
    answer = ask(fleet, Sleep(mode="abort"))
    run(fleet, seen)
    assert state(answer).waiting == 0
    assert {end.reason for end in seen.finished.values()} == {FinishReason.ABORT}
    assert seen.finished.keys() == {*PROMPTS, 7}


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
def test_a_sleep_without_host_memory_changes_nothing(
    mode: PauseMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, seen = busy_fleet()
    monkeypatch.setattr("mell_jax.worker.held_weights.HOST_MEMORY", "a_drawer")
    with pytest.raises(NotPossibleError, match="no a_drawer memory"):
        ask(fleet, Sleep(level=2, mode=mode))
    run(fleet, seen)
    assert_all_said(seen, *PROMPTS)


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
