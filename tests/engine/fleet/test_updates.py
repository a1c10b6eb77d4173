"""Each token is that of its weights, whatever happens while they change."""

import numpy as np
import pytest

from mell_jax.engine.admin import Migrate, OpenRequests, UpdateWeights, WeightsUpdated
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler import prefix_cache, sequences
from mell_jax.scheduler.ids import DeviceGroupId, PageKey, RequestId
from mell_jax.scheduler.migration.records import MovePhase, Owner
from mell_jax.scheduler.placement.operator import UnknownTargetError
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import TOY, toy_fleet
from tests.engine.fleet.versioned import (
    Record,
    ToyWeights,
    give,
    greedy,
    run,
    tokens_until,
    update,
    watched_fleet,
)
from tests.toy import VOCAB, Transcript, submit

PROMPT = [n % 7 for n in range(70)]  # 4 full pages
ROOT_KEY = prefix_cache.root_key


def test_a_request_that_goes_on_keeps_what_older_weights_wrote() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)  # the third is in flight, and of the old weights
    give(fleet, factor=1, scale=3, then="keep")
    run(fleet, seen)
    #  1 + 2 + 3 = 6    + 6 = 12    + 12 = 24 | of the new weights: 24 counts 3 times
    #  6 + 6 + 12 + 3 * 24 = 96    + 3 * 96 = 384 = 81    + 3 * 81 = 627 = 21
    assert seen.tokens[0] == [6, 12, 24, 96, 81, 21]
    assert seen.versions[0] == ["0", "0", "0", "1", "1", "1"]


def test_a_request_that_restarts_is_all_of_the_new_weights() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(5))
    tokens_until(fleet, seen, 2)
    give(fleet, factor=1, scale=3, then="restart")
    run(fleet, seen)
    #  3 * (6 + 6 + 12 + 24) = 144 = 43    144 + 3 * 43 = 273 = 71
    assert seen.tokens[0] == [6, 12, 24, 43, 71]
    assert seen.versions[0] == ["0", "0", "0", "1", "1"]


def test_requests_that_abort_end_at_once() -> None:
    fleet, seen = toy_fleet(devices=2), Transcript()
    for handle in range(3):
        submit(fleet, [1, 2, 3], handle=handle, params=greedy(20))
    tokens_until(fleet, seen, 2)
    give(fleet, factor=1, scale=3, then="abort")
    run(fleet, seen)
    assert {end.reason for end in seen.finished.values()} == {FinishReason.ABORT}
    assert len(seen.finished) == 3
    assert fleet.conductor.is_at_rest


def hit_tokens(fleet: Fleet, *, handle: int) -> int:
    """Tokens of the prompt that were found in the cache."""
    seen = Transcript()
    submit(fleet, PROMPT, handle=handle, params=greedy(2))
    run(fleet, seen)
    return seen.prompts[handle].cached_tokens


def test_pages_of_older_weights_are_not_found() -> None:
    fleet = toy_fleet(devices=1)
    assert hit_tokens(fleet, handle=1) == 0
    assert hit_tokens(fleet, handle=2) == 64
    give(fleet, factor=1, scale=3, then="keep")
    assert hit_tokens(fleet, handle=3) == 0
    assert hit_tokens(fleet, handle=4) == 64


def test_older_pages_that_are_found_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The planted fault: keys of pages leave out which weights computed them."""
    monkeypatch.setattr(prefix_cache, "root_key", _older_root)
    monkeypatch.setattr(sequences, "root_key", _older_root)
    record, seen = Record(), Transcript()
    fleet = watched_fleet(record, devices=1)
    for handle in (0, 1):
        submit(fleet, PROMPT, handle=handle, params=greedy(2))
        run(fleet, seen)
        update(fleet, record)
    assert seen.prompts[1].cached_tokens == 64
    with pytest.raises(AssertionError, match="token 0 of 1 by 1"):
        record.check(seen, prompts={0: PROMPT, 1: PROMPT})


def _older_root(salt: bytes, *, generation: int = 0) -> PageKey:
    return ROOT_KEY(salt, generation=0)


def test_weights_change_while_an_instance_is_parked_with_them() -> None:
    record, seen = Record(), Transcript()
    config = FleetConfig(parking="weights")
    fleet = watched_fleet(record, devices=2, config=config, num_pages=17)
    prompts = {handle: PROMPT for handle in range(8)}
    for handles in (range(4), range(4, 8)):
        for handle in handles:
            submit(fleet, PROMPT, handle=handle, params=greedy(9))
        run(fleet, seen)
        for _ in range(50):  # epochs, in which one is closed
            seen.read(fleet.step())
        assert fleet.stats().parkings == handles.start // 4 + 1
        update(fleet, record)
    record.check(seen, prompts=prompts)
    homes = {
        array.sharding.memory_kind
        for held in fleet.instance_pool.held(TOY).values()
        for array in held.arrays
    }
    assert homes == {"device", "pinned_host"}


def test_a_request_with_older_pages_shares_none() -> None:
    record, seen = Record(), Transcript()
    fleet = watched_fleet(record, devices=1)
    submit(fleet, PROMPT, handle=0, params=greedy(30))
    tokens_until(fleet, seen, 2)
    update(fleet, record)
    tokens_until(fleet, seen, 25)  # it has filled a page since
    submit(fleet, [*PROMPT, *seen.tokens[0][:20]], handle=1, params=greedy(3))
    run(fleet, seen)
    assert seen.prompts[1].cached_tokens == 0
    prompts = {0: PROMPT, 1: [*PROMPT, *seen.tokens[0][:20]]}
    assert record.check(seen, prompts=prompts) > 20
    assert fleet.conductor.is_at_rest


@pytest.mark.parametrize("mode", list(Mode))
def test_mixed_requests_move_by_pages(mode: Mode) -> None:
    record, seen = Record(), Transcript()
    config = FleetConfig(mode=mode, fault=Fault(move_every=1))
    fleet = watched_fleet(record, devices=2, config=config, num_pages=33)
    prompts = {handle: [handle, *PROMPT] for handle in range(6)}
    for handle, prompt in prompts.items():
        submit(fleet, prompt, handle=handle, params=greedy(40))
    tokens_until(fleet, seen, 5)
    before = fleet.stats().begun
    assert len(fleet.instances) == 2
    assert before[mode] > 0
    update(fleet, record)
    run(fleet, seen)
    assert record.check(seen, prompts=prompts) > 100
    after = fleet.stats().begun
    assert after.get(Mode.TOKENS, 0) == before.get(Mode.TOKENS, 0)
    assert after[Mode.KV] > before.get(Mode.KV, 0) + 10


def move_one(fleet: Fleet) -> Owner:
    """The owner of the first request, which is on its way to the other device."""
    owner = fleet.conductor.controller.owners[RequestId(0)]
    assert owner.home is not None
    fleet.administer(Migrate(request=0, device=1 - owner.home))
    assert owner.move is not None
    assert owner.move.phase is MovePhase.COPYING
    return owner


def busy_fleet(record: Record, *, mode: Mode) -> Fleet:
    """Requests on two devices."""
    config = FleetConfig(mode=mode)
    fleet = watched_fleet(record, devices=2, config=config, num_pages=33)
    for handle in range(7):
        submit(fleet, [handle, *PROMPT], handle=handle, params=greedy(30))
    return fleet


@pytest.mark.parametrize("then", ["keep", "restart"])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_move_under_way_goes_on_if_it_brings_what_the_source_has(
    mode: Mode, then: OpenRequests
) -> None:
    record, seen = Record(), Transcript()
    fleet = busy_fleet(record, mode=mode)
    tokens_until(fleet, seen, 5)
    owner = move_one(fleet)
    seen.read(fleet.step())
    update(fleet, record, then)
    goes_on = then == "keep" and mode is Mode.KV
    assert fleet.stats().count(MoveOutcome.ABORTED) == (not goes_on)
    assert goes_on or owner.move is None
    run(fleet, seen)
    prompts = {handle: [handle, *PROMPT] for handle in range(7)}
    assert (record.check(seen, prompts=prompts) > 0) == (then == "keep")


def test_a_move_of_a_request_without_pages_is_called_off() -> None:
    record, seen = Record(), Transcript()
    fleet = busy_fleet(record, mode=Mode.KV)
    tokens_until(fleet, seen, 5)
    update(fleet, record, "restart")  # so that it waits for a row
    owner = move_one(fleet)
    update(fleet, record, "keep")
    assert owner.move is None
    assert fleet.stats().count(MoveOutcome.ABORTED) == 1
    run(fleet, seen)
    prompts = {handle: [handle, *PROMPT] for handle in range(7)}
    record.check(seen, prompts=prompts)


@pytest.mark.parametrize("then", ["keep", "restart"])
def test_who_was_preempted_is_computed_again_by_the_new_weights(
    then: OpenRequests,
) -> None:
    record, seen = Record(), Transcript()
    fleet = watched_fleet(record, devices=1, num_pages=12, growth=0.1)
    prompts = {handle: [handle, *PROMPT] for handle in range(4)}
    for handle, prompt in prompts.items():
        submit(fleet, prompt, handle=handle, params=greedy(40))
    for preemptions in (1, 2):
        while fleet.stats().preemptions < preemptions:
            seen.read(fleet.step())
        assert fleet.machine.waiting > 0
        update(fleet, record, then)
    run(fleet, seen)
    assert {len(tokens) for tokens in seen.tokens.values()} == {40}
    assert (record.check(seen, prompts=prompts) > 0) == (then == "keep")


def test_a_request_computed_again_after_a_loss_is_an_ordinary_one() -> None:
    record, seen = Record(), Transcript()
    config = FleetConfig(fault=Fault(raise_on=(DeviceGroupId(0), 12)))
    fleet = watched_fleet(record, devices=2, config=config)
    submit(fleet, PROMPT, handle=0, params=greedy(40))
    tokens_until(fleet, seen, 3)
    update(fleet, record)
    (state,) = fleet.conductor.states_of(TOY)
    assert state.is_mixed
    while not fleet.stats().replays:
        seen.read(fleet.step())
    tokens_until(fleet, seen, 25)
    assert not state.is_mixed
    submit(fleet, PROMPT, handle=1, params=greedy(3))
    run(fleet, seen)
    assert seen.prompts[1].cached_tokens == 64
    record.check(seen, prompts={0: PROMPT, 1: PROMPT})


def test_a_prompt_half_scored_is_scored_again_by_the_new_weights() -> None:
    prompt = [(n * 5 + 3) % 90 for n in range(120)]  # two chunks
    params = SamplingParams(temperature=0.0, max_tokens=4, prompt_logprobs=2)
    still, seen = toy_fleet(devices=1), Transcript()
    give(still, factor=2, scale=3, then="keep")
    submit(still, prompt, handle=0, params=params)
    run(still, seen)
    fleet, other = toy_fleet(devices=1), Transcript()
    submit(fleet, prompt, handle=0, params=params)
    other.read(fleet.step())  # the first chunk is in flight
    give(fleet, factor=2, scale=3, then="restart")
    run(fleet, other)
    there, here = seen.prompts[0].logprobs, other.prompts[0].logprobs
    assert there is not None
    assert here is not None
    assert len(here.chosen) == len(prompt) - 1
    np.testing.assert_array_equal(here.top_ids, there.top_ids)
    np.testing.assert_allclose(here.chosen, there.chosen, atol=1e-5)
    assert other.tokens == seen.tokens


def test_a_prompt_half_scored_goes_on() -> None:
    prompt = [(n * 5 + 3) % 90 for n in range(120)]
    params = SamplingParams(temperature=0.0, max_tokens=4, prompt_logprobs=2)
    fleet, seen = toy_fleet(devices=1), Transcript()
    submit(fleet, prompt, handle=0, params=params)
    seen.read(fleet.step())
    give(fleet, factor=1, scale=3, then="keep")
    run(fleet, seen)
    logprobs = seen.prompts[0].logprobs
    assert logprobs is not None
    assert len(logprobs.chosen) == len(prompt) - 1
    assert seen.tokens[0][0] == (sum(prompt[:64]) + 3 * sum(prompt[64:])) % VOCAB


def test_weights_are_those_of_a_model() -> None:
    fleet = toy_fleet(devices=1)
    weights = ToyWeights(fleet, factor=1, scale=1)
    with pytest.raises(UnknownTargetError, match="no model 'nobody' is served"):
        fleet.administer(UpdateWeights(weights=weights, model="nobody"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([None, None], ["1", "2"]),
        (["3", None], ["3", "4"]),  # not the third, which would be called alike
        (["7", "a", None], ["7", "a", "3"]),
        (["²", None], ["²", "2"]),
        (["9" * 256, None], ["9" * 256, "2"]),  # one more would be too long a name
    ],
)
def test_weights_without_a_name_are_not_called_like_those_before(
    given: list[str | None], wanted: list[str]
) -> None:
    fleet, found = toy_fleet(devices=1), []
    for version in given:
        weights = ToyWeights(fleet, factor=1, scale=3)
        answer = fleet.administer(UpdateWeights(weights=weights, version=version))
        assert isinstance(answer, WeightsUpdated)
        found.append(answer.version)
    assert found == wanted
