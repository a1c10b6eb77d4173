"""Each token is that of its weights, whatever happens while they change."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mell_jax.engine.admin import OpenRequests, UpdateWeights
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.engine.fleet.versioned import (
    Record,
    ToyWeights,
    update,
    watched_fleet,
)
from tests.toy import Transcript, submit

PROMPT = [n % 7 for n in range(70)]  # 4 full pages


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=count)


def run(fleet: Fleet, seen: Transcript) -> None:
    while fleet.has_work:
        seen.read(fleet.step())
        fleet.machine.ledger.check()


def give(fleet: Fleet, *, factor: int, scale: int, then: OpenRequests) -> None:
    weights = ToyWeights(fleet, factor=factor, scale=scale)
    fleet.administer(UpdateWeights(weights=weights, open_requests=then))


def tokens_until(fleet: Fleet, seen: Transcript, count: int) -> None:
    while len(seen.tokens.get(0, ())) < count:
        seen.read(fleet.step())


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


WORDS = st.sampled_from(["keep", "keep", "restart", "abort"])
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps before it
        st.one_of(WORDS, st.integers(0, 5), st.just("streamed")),
    ),
    min_size=4,
    max_size=16,
)
CONFIGS = st.builds(
    FleetConfig,
    mode=st.sampled_from([None, Mode.KV, Mode.TOKENS]),
    fault=st.builds(
        Fault,
        move_every=st.sampled_from([None, 1, 2]),
        raise_on=st.one_of(
            st.none(),
            st.tuples(st.integers(0, 2).map(DeviceGroupId), st.integers(3, 30)),
        ),
    ),
)


def prompt_of(kind: int) -> list[int]:
    """Prompts that begin alike, of one to several pages and chunks."""
    return [(n * 3 + 1) % 11 for n in range(10 + 13 * kind)] + [kind]


def play(
    fleet: Fleet, record: Record, events: Sequence[tuple[int, str | int]]
) -> Transcript:
    """Plays events between steps, and checks every token at the end."""
    seen, prompts = Transcript(), {}
    for steps, event in events:
        for _ in range(steps):
            seen.read(fleet.step())
            fleet.machine.ledger.check()
        if isinstance(event, int):
            for _ in range(2):
                handle = len(prompts)
                prompts[handle] = prompt_of(event)
                submit(fleet, prompts[handle], handle=handle, params=greedy(25))
        elif event == "streamed":
            update(fleet, record, is_streamed=True)
        else:
            update(fleet, record, event)  # type: ignore[arg-type]
        fleet.machine.ledger.check()
    run(fleet, seen)
    record.check(seen, prompts=prompts)
    for handle in prompts:
        end = seen.finished[handle]
        assert end.reason in (FinishReason.LENGTH, FinishReason.ABORT), end
        if end.reason is FinishReason.LENGTH:
            assert len(seen.tokens[handle]) == 25
    assert fleet.conductor.is_at_rest
    load = fleet.load()
    assert load.used_pages == 0
    return seen


def play_anew(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    record = Record()
    fleet = watched_fleet(
        record, devices=3, config=config, num_pages=num_pages, rows=4, growth=0.1
    )
    play(fleet, record, events)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, config=CONFIGS, num_pages=st.sampled_from([9, 14, 33]))
def test_every_token_is_of_its_weights(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    play_anew(events, config, num_pages)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, config=CONFIGS, num_pages=st.sampled_from([9, 14, 33]))
def test_every_token_is_of_its_weights_at_length(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    play_anew(events, config, num_pages)
