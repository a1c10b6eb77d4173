"""Answers against an exhaustive search: the same simulator, every fleet there is."""

import asyncio
import itertools

import numpy as np
import pytest

from mell_jax.planner.load import Slo
from mell_jax.planner.question import Answer, Offer, Payment, Question, Side
from mell_jax.planner.search import Fleet
from mell_jax.planner.shape import ModelShape
from mell_jax.planner.solve import solve
from mell_jax.planner.trial import Task, Trial, run_trial
from mell_jax.planner.trials import FILLS, USES_ALL
from mell_jax.scheduler.simulator.workload import Workload
from tests.planner.small import option, workload

SHAPE = ModelShape(
    name="small",
    parameters=1000,
    embedding=0,
    head=0,
    hidden_size=1,
    context_tokens=1000,
    num_kv_heads=1,
    head_dim=2,
    windows=(None,),
    attention_width=(2,),
    num_heads=(1,),
    mlp_sizes=(1,),
)
OPTIONS = (
    option("A", price=1.0, capacity_tokens=2400),
    option("B", price=2.2, capacity_tokens=6400, speed=2.2),
)


def drawn(seed: int, *, count: int = 40, rate_per_s: float = 2.0) -> Workload:
    """Requests of about 210 tokens and 105 more."""
    rng = np.random.default_rng(seed)
    return workload(
        arrival_s=np.sort(rng.uniform(0, count / rate_per_s, count)).tolist(),
        given=rng.integers(20, 400, count).tolist(),
        made=rng.integers(10, 200, count).tolist(),
    )


def ask(load: Workload, *, ttft_s: float = 0.8, **others: object) -> Question:
    values: dict[str, object] = {
        "workload": load,
        "shape": SHAPE,
        "options": OPTIONS,
        "slo": Slo(ttft_s=ttft_s, tpot_s=0.05, attainment=0.95),
        "payment": Payment.OWNED,
        "policies": ("consolidate", "spread"),
        "baselines": ("pinned_spread", "pinned_best_fit"),
    }
    return Question(**(values | others))  # type: ignore[arg-type]


def answer_to(question: Question) -> Answer:
    async def run(task: Task) -> Trial:
        return run_trial(task)

    return asyncio.run(solve(question, run=run))


def tried(
    question: Question, policy: str, fleet: Fleet, fills: tuple[float, ...]
) -> Offer:
    task = Task(
        workload=question.workload,
        profiles=tuple(option.profile for option in OPTIONS),
        prices=tuple(option.price_per_hour for option in OPTIONS),
        fleet=fleet,
        fills=fills,
        policy=policy,
        headroom=0.0,
        slo=question.slo,
    )
    return Offer(options=OPTIONS, trial=run_trial(task), is_whole=True)


def exhaustive(question: Question, side: Side, *, most: int) -> float:
    """The least price of all fleets of up to so many instances of each option.

    Policies that use every device are tried with all mixes, the others with one kind
    and as full as any.
    """
    policies = question.policies if side is Side.MOVING else question.baselines
    prices = []
    for policy in policies:
        for fleet in itertools.product(range(most + 1), repeat=2):
            kinds = sum(count > 0 for count in fleet)
            if not kinds or (kinds > 1 and policy not in USES_ALL):
                continue
            for fill in (1.0,) if policy in USES_ALL else FILLS:
                fills = tuple(fill if count else 1.0 for count in fleet)
                offer = tried(question, policy, fleet, fills)
                if offer.trial.is_met:
                    prices.append(question.price_of(offer))
    return min(prices)


SLOWLY = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, *SLOWLY])
@pytest.mark.parametrize("ttft_s", [0.6, pytest.param(1.2, marks=pytest.mark.slow)])
def test_the_answer_is_that_of_an_exhaustive_search(seed: int, ttft_s: float) -> None:
    question = ask(drawn(seed), ttft_s=ttft_s)
    answer = answer_to(question)
    for side in Side:
        best = exhaustive(question, side, most=3)
        assert question.price_of(answer.best[side]) == pytest.approx(best)
        assert answer.best[side].trial.is_met and answer.best[side].is_whole
    assert answer.trials < 60


def test_where_parking_saves_money_no_one_kind_is_cheaper() -> None:
    question = ask(drawn(1), ttft_s=1.2, payment=Payment.USED)
    answer = answer_to(question)
    for side in Side:
        found = question.price_of(answer.best[side])
        assert found <= exhaustive(question, side, most=3) + 1e-9


def test_a_mix_is_bought_where_it_is_cheaper_than_one_kind() -> None:
    """One of B carries most of this load, and a cheap one of A the rest."""
    question = ask(
        drawn(4, count=60, rate_per_s=5.0),
        options=(
            option("A", price=1.0, capacity_tokens=2400, speed=0.8),
            option("B", price=2.5, capacity_tokens=6400, speed=2.0),
        ),
        policies=("spread",),
        baselines=("pinned_spread",),
    )
    answer = answer_to(question)
    assert {offer.name: question.price_of(offer) for offer in answer.offers} == {
        "2 x B": 5.0,
        "5 x A": 5.0,
        "1 x B + 1 x A": 3.5,
    }
    assert answer.best[Side.MOVING].name == "1 x B + 1 x A"


def test_the_whole_trace_is_tried_in_the_end() -> None:
    load = drawn(0)
    question = ask(load, slice_requests=20)
    answer = answer_to(question)
    begin_s, end_s = answer.busiest_s
    assert end_s - begin_s == pytest.approx(20 / 40 * 19.6, abs=0.5)
    assert not any(offer.is_whole for offer in answer.offers)
    assert all(offer.is_whole for offer in answer.best.values())
    part_only = answer_to(ask(load, slice_requests=20, is_whole=False))
    assert not any(offer.is_whole for offer in part_only.best.values())


def test_a_kind_out_of_reach_is_told_with_its_least() -> None:
    slow = option("C", price=0.1, capacity_tokens=2400, speed=0.1)
    answer = answer_to(ask(drawn(0), options=(*OPTIONS, slow)))
    (unmet,) = [unmet for unmet in answer.unmet if unmet.kind == "C"]
    assert unmet.policy is None
    assert unmet.reason.startswith("TTFT is ") and "TPOT is " in unmet.reason


def test_a_dear_kind_is_not_searched() -> None:
    dear = option("C", price=50.0, capacity_tokens=6400, speed=2.0)
    answer = answer_to(ask(drawn(0), options=(*OPTIONS, dear)))
    (unmet,) = [unmet for unmet in answer.unmet if unmet.kind == "C"]
    assert unmet.reason == "costs at least 50.00 $/h by its mean load: not searched"


def test_bounds_that_bursts_break_at_any_number_are_told() -> None:
    """All come at once, so most wait for others however many there are."""
    load = workload(arrival_s=[0.0] * 60, given=[300] * 60, made=[20] * 60)
    question = ask(load, ttft_s=0.36, most_instances=6, policies=("consolidate",))
    answer = answer_to(question)
    assert Side.MOVING not in answer.best
    (unmet,) = [u for u in answer.unmet if u.kind == "B" and u.policy == "consolidate"]
    assert unmet.reason.endswith("are within on 6 x B, kept as empty as can be")


def test_bounds_below_all_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="--slo_ttft_ms=10 is below"):
        answer_to(ask(drawn(0), ttft_s=0.01))
