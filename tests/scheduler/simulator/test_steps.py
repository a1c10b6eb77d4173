"""Instances that make steps: times by hand, and against steps made one by one.

A page has 10 tokens. A step takes 1 s, 0.5 s for each row that decodes, 0.25 s for each
of their pages, and 0.1 s for each token of a prompt beside them; it has 10 tokens.
"""

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.profile import StepSpeed
from mell_jax.scheduler.simulator.results.compare import run_policy
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from tests.scheduler.simulator.naive_steps import Asked, make_steps

STEPS = Settings(
    capacity_tokens=1000,
    page_tokens=10,
    link_gbps=math.inf,
    step_time=StepTime(fixed_s=1.0, row_s=0.5, page_s=0.25),
    steps=StepSpeed(prefill_token_s=0.1, token_budget=10, max_rows=8),
)


def run(asked: Asked, settings: Settings, *, policy: str = "best_fit") -> RunMeter:
    """A run that is recorded and reproduced."""
    load = Workload(
        arrival_s=np.array([at for at, _, _ in asked]),
        input_tokens=np.array([given for _, given, _ in asked]),
        output_tokens=np.array([made for _, _, made in asked]),
        models=(ONLY_MODEL,) * len(asked),
        name="by hand",
    )
    file = io.StringIO()

    def open_log(name: str, config: PolicyConfig) -> record.EventLog:
        header = record.make_header(
            name, config=config, settings=settings, workload=load
        )
        return record.EventLog(file, header=header)

    outcome = run_policy(
        policy,
        workload=load,
        settings=settings,
        headroom=0.0,
        clock=itertools.count().__next__,
        progress=lambda served: None,
        open_log=open_log,
    )
    lines = iter(file.getvalue().splitlines())
    record.replay(record.read_machine(lines), lines=lines)
    return outcome.meter


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


@st.composite
def workloads(draw: st.DrawFn) -> Asked:
    count = draw(st.integers(1, 12))
    arrivals = draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))
    off_s = 0.0033  # of a border of steps, where roundings would decide
    return [
        (at / 2 + off_s, draw(st.integers(1, 40)), draw(st.integers(1, 40)))
        for at in sorted(arrivals)
    ]


@settings(max_examples=60, deadline=None)
@given(asked=workloads(), budget=st.integers(1, 30), pair_s=st.sampled_from([0.0, 7.0]))
def test_steps_in_one_go_are_those_made_one_by_one(
    asked: Asked, budget: int, pair_s: float
) -> None:
    speed = StepSpeed(
        prefill_token_s=0.1, prefill_pair_s=pair_s, token_budget=budget, max_rows=99
    )
    fleet = replace(STEPS, capacity_tokens=99_999, max_devices=1, steps=speed)
    felt = run(asked, fleet).latencies
    expected = make_steps(asked, settings=fleet)
    at_s = [arrival_s for arrival_s, _, _ in asked]
    first = [first_s - at for at, (first_s, _) in zip(at_s, expected, strict=True)]
    last = [last_s - at for at, (_, last_s) in zip(at_s, expected, strict=True)]
    assert sorted(felt.ttft_s) == pytest.approx(sorted(first))
    assert sorted(felt.e2e_s) == pytest.approx(sorted(last))
