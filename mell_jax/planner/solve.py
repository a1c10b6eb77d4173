"""Answers a question: which options can at all, how many of each, which is cheapest.

    lone latencies      options that no bound rules out   (arithmetic)
    fluid               one width for each kind           (arithmetic)
    busiest stretch     the fewest instances, and mixes   (simulated, for each policy)
    whole trace         the cheapest of them, again       (simulated)

It decides and simulates nothing itself: the caller runs tasks, several at a time.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence

from mell_jax.planner.load import busiest, fluid_instances
from mell_jax.planner.option import Option
from mell_jax.planner.question import Answer, Offer, Payment, Question, Side, Unmet
from mell_jax.planner.reach import Reach, check_reach, one_width_each, reach_of
from mell_jax.planner.trials import Run, Trials
from mell_jax.scheduler.simulator.workload import Workload

SAFETY = 1.2  # a fluid has no bursts
DEAR = 2.0  # a kind whose mean load costs so much more than another's is left out


async def solve(question: Question, *, run: Run) -> Answer:
    """Returns the answer to a question.

    Raises:
      ValueError: no option can meet the SLO; with the least that there is.
    """
    slo = question.slo
    reaches = [
        reach_of(option, workload=question.workload, slo=slo)
        for option in question.options
    ]
    check_reach(reaches, slo=slo)
    within = [reach.option for reach in reaches if reach.is_within(slo)]
    begin_s, end_s = busiest(
        question.workload,
        profile=within[0].profile,
        most_requests=question.slice_requests,
    )
    part = question.workload.between(begin_s, end_s)
    fluids = _fluids(within, part=part, span_s=end_s - begin_s, question=question)
    options = one_width_each(within, fluid=fluids.__getitem__)
    options.sort(key=lambda option: fluids[option] * option.price_per_hour)
    trials = Trials(question, part=part, options=tuple(options), run=run)
    offers, unmet = await _search(trials, question, options=options, fluids=fluids)
    best = await asyncio.gather(
        *(_settle(trials, question, side=side, offers=offers) for side in Side)
    )
    return Answer(
        question=question,
        busiest_s=(begin_s, end_s),
        offers=tuple(offers),
        unmet=(*_out_of_reach(reaches, options=options, question=question), *unmet),
        best={s: offer for s, offer in zip(Side, best, strict=True) if offer},
        trials=trials.count,
    )


def _fluids(
    options: Iterable[Option], *, part: Workload, span_s: float, question: Question
) -> dict[Option, float]:
    """The instances of each option that an even load needs."""
    return {
        option: fluid_instances(
            part,
            profile=option.profile,
            tpot_s=question.slo.tpot_s,
            span_s=max(span_s, 1.0),
        )
        for option in options
    }


async def _search(
    trials: Trials,
    question: Question,
    *,
    options: Sequence[Option],
    fluids: dict[Option, float],
) -> tuple[list[Offer], list[Unmet]]:
    """What each policy needs of each option, and the mixes; cheapest kinds first."""
    policies = (*question.policies, *question.baselines)
    found: dict[str, list[Offer | Unmet]] = {policy: [] for policy in policies}
    for at, option in enumerate(options):
        least = _least_price(option, fluid=fluids[option], payment=question.payment)
        offers = [o for some in found.values() for o in some if isinstance(o, Offer)]
        if offers and least > DEAR * min(map(question.price_of, offers)):
            dear = Unmet(
                kind=option.kind,
                policy=None,
                reason=f"costs at least {least:.2f} $/h by its mean load: not searched",
            )
            found[policies[0]].append(dear)
            for policy in policies[1:]:
                found[policy].append(dear)
            continue
        guess = math.ceil(SAFETY * fluids[option])
        each = await asyncio.gather(
            *(trials.fewest(policy, at=at, guess=guess) for policy in policies)
        )
        for policy, one in zip(policies, each, strict=True):
            found[policy].append(one)
    mixes = await asyncio.gather(
        *(trials.mix(policy, alone=found[policy]) for policy in policies)
    )
    for policy, mix in zip(policies, mixes, strict=True):
        found[policy] += [mix] if mix is not None else []
    everything = [one for some in found.values() for one in some]
    unmet = [one for one in everything if isinstance(one, Unmet)]
    return (
        [one for one in everything if isinstance(one, Offer)],
        list(dict.fromkeys(unmet)),
    )


def _least_price(option: Option, *, fluid: float, payment: Payment) -> float:
    """What an even load would cost."""
    instances = math.ceil(fluid) if payment is Payment.OWNED else fluid
    return instances * option.price_per_hour


async def _settle(
    trials: Trials, question: Question, *, side: Side, offers: Iterable[Offer]
) -> Offer | None:
    """The cheapest offer of a side over the whole trace, None without any.

    What is cheapest over the busiest stretch is tried first; the next ones only while
    they might still be cheaper.
    """
    mine = sorted(
        (offer for offer in offers if question.side_of(offer.trial.policy) is side),
        key=question.cost_of,
    )
    best: Offer | None = None
    for offer in mine:
        if best is not None and question.price_of(best) <= question.price_of(offer):
            break
        whole = offer
        if question.is_whole and not offer.is_whole:
            tried = await trials.over_all(offer)
            if tried is None:
                continue
            whole = tried
        if best is None or question.cost_of(whole) < question.cost_of(best):
            best = whole
    return best


def _out_of_reach(
    reaches: Iterable[Reach], *, options: Iterable[Option], question: Question
) -> list[Unmet]:
    """Kinds of which no width is an option, each with what its widest one lacks."""
    kinds = {option.kind for option in options}
    found = {
        reach.option.kind: Unmet(
            kind=reach.option.kind, policy=None, reason=reach.reason(question.slo)
        )
        for reach in reaches
        if reach.option.kind not in kinds
    }
    return list(found.values())
