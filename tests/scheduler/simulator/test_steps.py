"""Instances that make steps: times by hand, and against steps made one by one.

A page has 10 tokens. A step takes 1 s, 0.5 s for each row that decodes, 0.25 s for each
of their pages, and 0.1 s for each token of a prompt beside them; it has 10 tokens.
"""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator import check
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.profile import Profile, StepSpeed
from mell_jax.scheduler.simulator.repack import lives
from mell_jax.scheduler.simulator.settings import Settings, settings_of
from tests.scheduler.simulator.by_hand import run_recorded, workload
from tests.scheduler.simulator.naive_steps import Asked, make_steps
from tests.scheduler.simulator.test_simulator import HARD, mixed, outcome

STEPS = Settings(
    capacity_tokens=1000,
    page_tokens=10,
    link_gbps=math.inf,
    step_time=StepTime(fixed_s=1.0, row_s=0.5, page_s=0.25),
    steps=StepSpeed(prefill_token_s=0.1, token_budget=10, max_rows=8),
)


def run(asked: Asked, settings: Settings) -> RunMeter:
    """A run of best fit, whose log is reproduced."""
    return recorded(asked, settings)[0]


def recorded(asked: Asked, settings: Settings) -> tuple[RunMeter, list[str]]:
    return run_recorded(workload(asked), settings)


def times(meter: RunMeter) -> dict[str, list[float]]:
    """In the order in which requests end."""
    felt = meter.latencies
    return {
        name: [round(value, 9) for value in values]
        for name, values in [
            ("ttft", felt.ttft_s),
            ("tpot", felt.tpot_s),
            ("e2e", felt.e2e_s),
        ]
    }


def test_a_row_alone_takes_its_prefill_and_a_step_for_each_other_token() -> None:
    # 1 + 5 * 0.1 s to the first token, then 1 + 0.5 + 0.25 s for each of three
    got = times(run([(0.0, 5, 4)], STEPS))
    assert got == {"ttft": [1.5], "tpot": [1.75], "e2e": [6.75]}


def test_two_rows_together_are_slower_than_each_alone() -> None:
    # both prompts go in one step, 1 + 10 * 0.1 s; then 1 + 2 * (0.5 + 0.25) s each
    got = times(run([(0.0, 5, 4), (0.0, 5, 4)], STEPS))
    assert got == {"ttft": [2.0, 2.0], "tpot": [2.5, 2.5], "e2e": [9.5, 9.5]}


def test_a_prompt_slows_the_row_beside_it() -> None:
    # The row has its first token at 1.5 s and is in a step until 3.25 s. The prompt of
    # 25, which came at 2 s, has 9 tokens in each of the next two steps of 2.65 s, at
    # 5.9 and 8.55 s, when the row ends; its last 7 take 1.7 s alone.
    meter = run([(0.0, 5, 4), (2.0, 25, 1)], STEPS)
    assert times(meter) == {"ttft": [1.5, 8.25], "tpot": [2.35], "e2e": [8.55, 8.25]}
    assert list(meter.wait_s) == [0.0, 1.25]


def test_a_prompt_waits_for_the_step_that_was_planned_before_it_came() -> None:
    assert STEPS.steps is not None
    ahead = replace(STEPS, steps=replace(STEPS.steps, plans_ahead=True))
    # As above, but the row is alone in one more step, until 5 s. Beside the 9 tokens of
    # the next, until 7.65 s, it ends, and 10 and 6 tokens take 2 s and 1.6 s alone.
    meter = run([(0.0, 5, 4), (2.0, 25, 1)], ahead)
    assert times(meter) == {"ttft": [1.5, 9.25], "tpot": [2.05], "e2e": [7.65, 9.25]}
    # Where nothing is under way nothing was planned, and it begins at once.
    alone = run([(0.0, 5, 1), (2.0, 5, 1)], ahead)
    assert times(alone)["ttft"] == [1.5, 1.5]


def test_a_row_that_grows_has_one_more_page_to_attend_to() -> None:
    # 9 tokens of 10 are given: the first token, at 1.9 s, fills the page, the second
    # and the third are of a row with two pages: 1 + 0.5 + 2 * 0.25 s
    assert times(run([(0.0, 9, 3)], STEPS))["e2e"] == [5.9]


def test_what_a_long_prompt_attends_to_takes_time_too() -> None:
    assert STEPS.steps is not None
    pairs = replace(STEPS, steps=replace(STEPS.steps, prefill_pair_s=100.0))
    # chunks of 10: 55 pairs and 155 pairs at 0.1 s each, beside 2 s each
    assert times(run([(0.0, 20, 1)], pairs))["ttft"] == [25.0]


def test_steps_begin_when_the_model_is_loaded() -> None:
    meter = run([(0.0, 5, 1), (2.0, 5, 1)], replace(STEPS, activation_s=4.0))
    # both prompts are in the first step, from 4 s to 6 s
    assert times(meter)["ttft"] == [6.0, 4.0]
    assert list(meter.wait_s) == [4.0, 2.0]


def test_rows_beyond_those_of_a_batch_are_placed_elsewhere() -> None:
    assert STEPS.steps is not None
    two = replace(STEPS, steps=replace(STEPS.steps, max_rows=2))
    assert run([(0.0, 5, 4)] * 5, two).summary(requests=5)["devices_peak"] == 3


def test_objectives_are_met_by_those_that_are_in_time() -> None:
    both = [(0.0, 5, 4), (2.0, 25, 1)]
    for ttft_s, tpot_s, share in [
        (8.25, 2.35, 1.0),
        (8.2, 2.35, 0.5),
        (math.inf, 2.3, 0.5),
        (1.0, 1.0, 0.0),
    ]:
        asked = replace(STEPS, slo_ttft_s=ttft_s, slo_tpot_s=tpot_s)
        assert run(both, asked).latencies.figures()["slo_attainment"] == share


MOVED = replace(
    STEPS,
    capacity_tokens=80,
    link_gbps=8e-8,  # 10 bytes a second
    kv_bytes_per_token=1,
    steps=StepSpeed(prefill_token_s=0.1, token_budget=100, max_rows=8),
)
OVERFLOW = [(0.0, 25, 3), (0.0, 49, 2)]
"""3 and 5 pages fill device 0. Both have their first token at 1 + 74 * 0.1 = 8.4 s;
then the second wants a 6th page, so the first, with 26 tokens, goes to device 1."""


def test_a_row_stands_still_only_while_its_last_pages_are_sent() -> None:
    meter = run(OVERFLOW, MOVED)
    # 6 of 26 tokens are sent by 9 s. The step under way, 1 + 0.5 + 3 * 0.25 s, ends at
    # 10.65 s; the last two pages take 2 s, and the next token one more step. The second
    # waits until 12.65 s, and then makes a step with 6 pages, of 3 s.
    got = times(meter)
    assert got["e2e"] == [14.9, 15.65]
    assert got["tpot"] == [3.25, 7.25]
    assert list(meter.pause_s) == pytest.approx([4.25])
    assert (meter.migrations, meter.replays, meter.tokens_moved) == (1, 0, 26)


def test_a_replay_is_a_prompt_in_the_steps_of_its_target() -> None:
    slow = replace(MOVED, link_gbps=8.32e-7, kv_bytes_per_token=1000)
    meter = run([(0.0, 25, 5), (0.0, 49, 2)], slow)
    # 104 bytes of tokens are there at 9.4 s, and 26 tokens computed by 1 + 2.6 s, at
    # 13 s. Meanwhile the row is in its third step alone, from 12.9 to 15.15 s; the 3
    # tokens made since take device 1 another 1.3 s, until 16.45 s.
    assert times(meter)["e2e"] == [18.7, 19.45]
    assert list(meter.pause_s) == pytest.approx([8.05])
    assert (meter.replays, meter.tokens_recomputed) == (1, 26)


def test_a_move_that_takes_no_time_costs_the_step_under_way() -> None:
    meter = run(OVERFLOW, replace(MOVED, link_gbps=math.inf))
    # both go on at 8.4 s: two steps of 2.25 s, and one with 6 pages of 3 s
    assert sorted(times(meter)["e2e"]) == [11.4, 12.9]


@pytest.mark.parametrize("link_gbps", [0.2, math.inf])
@pytest.mark.parametrize("policy", ["consolidate", "mell", "best_fit"])
def test_every_token_is_served_in_steps_where_everything_is_scarce(
    policy: str, link_gbps: float
) -> None:
    scarce = replace(
        HARD,
        link_gbps=link_gbps,
        steps=StepSpeed(prefill_token_s=1e-3, token_budget=64, max_rows=8),
        warm_devices=1,
        warm_s=1.0,
    )
    load = mixed()
    meter = outcome(policy, load, scarce).meter
    assert meter.served_requests == len(load)
    assert meter.served_tokens == load.input_tokens.sum() + load.output_tokens.sum()
    assert meter.migrations > 0 and meter.preemptions > 0
    assert min(meter.latencies.ttft_s) > 0 and min(meter.latencies.tpot_s) > 0.01


@st.composite
def workloads(draw: st.DrawFn) -> Asked:
    count = draw(st.integers(1, 12))
    arrivals = draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))
    # No arrival is at a border of steps, where roundings would decide: steps begin at
    # another arrival and take multiples of 0.05 s.
    off_s = {at: 0.0033 * (1 + i) for i, at in enumerate(sorted(set(arrivals)))}
    return [
        (at / 2 + off_s[at], draw(st.integers(1, 40)), draw(st.integers(1, 40)))
        for at in sorted(arrivals)
    ]


@settings(max_examples=60, deadline=None)
@given(
    asked=workloads(),
    budget=st.integers(1, 30),
    pair_s=st.sampled_from([0.0, 7.0]),
    plans_ahead=st.booleans(),
)
def test_steps_in_one_go_are_those_made_one_by_one(
    asked: Asked, budget: int, pair_s: float, plans_ahead: bool
) -> None:
    speed = StepSpeed(
        prefill_token_s=0.1,
        prefill_pair_s=pair_s,
        token_budget=budget,
        max_rows=99,
        plans_ahead=plans_ahead,
    )
    fleet = replace(STEPS, capacity_tokens=99_999, max_devices=1, steps=speed)
    felt = run(asked, fleet).latencies
    expected = make_steps(asked, settings=fleet)
    at_s = [arrival_s for arrival_s, _, _ in asked]
    first = [first_s - at for at, (first_s, _) in zip(at_s, expected, strict=True)]
    last = [last_s - at for at, (_, last_s) in zip(at_s, expected, strict=True)]
    assert sorted(felt.ttft_s) == pytest.approx(sorted(first))
    assert sorted(felt.e2e_s) == pytest.approx(sorted(last))


def test_a_profile_says_all_that_a_fleet_of_its_devices_needs() -> None:
    profile = Profile(
        name="by hand",
        step_time=StepTime(fixed_s=1.0, row_s=0.5, page_s=0.25),
        prefill_token_s=0.1,
        token_budget=10,
        max_rows=8,
        capacity_tokens=1000,
        page_tokens=10,
        kv_bytes_per_token=4,
        load_s=3.0,
        link_bytes_per_s=1e9,
    )
    fleet = settings_of(profile)
    assert fleet == replace(
        STEPS,
        decode_tokens_per_s=1 / (1.0 + 8 * 0.5 + 100 * 0.25),  # of a full instance
        prefill_tokens_per_s=10.0,
        link_gbps=8.0,
        kv_bytes_per_token=4,
        activation_s=3.0,
    )
    assert settings_of(replace(profile, prefill_token_s=0.0)).prefill_tokens_per_s == (
        math.inf
    )


def test_the_bound_lets_each_request_live_as_if_alone() -> None:
    # alone, the prompt of 25 in three chunks takes 3 + 2.5 s and 4 tokens more, of 3
    # pages each, 2.25 s each
    load = workload([(1.0, 25, 5)])
    alone = lives(load, settings=STEPS)
    assert alone.decode_s == pytest.approx([6.5])
    assert alone.tokens_per_s == pytest.approx([1 / 2.25])
    assert alone.end_s == pytest.approx([15.5])


def test_a_log_of_steps_is_not_counted_again() -> None:
    _, log = recorded([(0.0, 5, 4)], STEPS)
    with pytest.raises(ValueError, match="--replay reproduces its decisions"):
        check.check(log)


def test_steps_that_cannot_be_are_refused() -> None:
    speed = STEPS.steps
    assert speed is not None
    for changed, rule in [
        ({"prefill_token_s": math.nan}, "prefill_token_s must be finite and >= 0"),
        ({"prefill_pair_s": -1.0}, "prefill_pair_s must be finite and >= 0"),
        ({"token_budget": 0}, "token_budget must be >= 1"),
        ({"max_rows": 0}, "max_rows must be >= 1"),
    ]:
        with pytest.raises(ValueError, match=rule):
            replace(speed, **changed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_time must not be 0"):
        replace(STEPS, step_time=StepTime())
