"""Answers a question: which options can at all, how many of each, which is cheapest.

    lone latencies      options that no bound rules out   (arithmetic)
    fluid               one width for each kind           (arithmetic)
    busiest stretch     the fewest instances, and mixes   (simulated, for each policy)
    whole trace         the cheapest of them, again       (simulated)

It decides and simulates nothing itself: the caller runs tasks, several at a time.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import final

from mell_jax.planner.load import busiest, fluid_instances
from mell_jax.planner.option import Option
from mell_jax.planner.question import Answer, Offer, Payment, Question, Side, Unmet
from mell_jax.planner.reach import check_reach, one_width_each, reach_of
from mell_jax.planner.search import Fleet, cheapest_mix, first_met, smallest
from mell_jax.planner.trial import Task, Trial
from mell_jax.scheduler.simulator.workload import Workload

Run = Callable[[Task], Awaitable[Trial]]
SAFETY = 1.2  # a fluid has no bursts
AMPLE = 4  # instances beyond what is expected: more would not help
FILLS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)  # of an instance's KV memory
USES_ALL = ("pinned_spread",)  # how full an instance is follows from their number


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

    def fluid(option: Option) -> float:
        return fluid_instances(
            part,
            profile=option.profile,
            tpot_s=slo.tpot_s,
            span_s=max(end_s - begin_s, 1.0),
        )

    options = one_width_each(within, fluid=fluid)
    guesses = [math.ceil(SAFETY * fluid(option)) for option in options]
    bench = _Bench(question, part=part, options=tuple(options), run=run)
    policies = (*question.policies, *question.baselines)
    found = await asyncio.gather(
        *(bench.search(policy, guesses=guesses) for policy in policies)
    )
    offers = [offer for some in found for offer in some]
    best = await asyncio.gather(*(bench.settle(side, offers) for side in Side))
    kinds = {option.kind for option in options}
    unmet = [
        Unmet(kind=reach.option.kind, reason=reach.reason(slo))
        for reach in reaches
        if reach.option.kind not in kinds
    ]
    return Answer(
        question=question,
        busiest_s=(begin_s, end_s),
        offers=tuple(offers),
        unmet=tuple({each.kind: each for each in unmet}.values()),  # the widest
        best={s: offer for s, offer in zip(Side, best, strict=True) if offer},
        trials=bench.trials,
    )


@final
class _Bench:
    """Tries fleets of a question's options, each once."""

    def __init__(
        self,
        question: Question,
        *,
        part: Workload,
        options: tuple[Option, ...],
        run: Run,
    ) -> None:
        self._question = question
        self._part = part
        self._options = options
        self._run = run
        self._longest = question.longest_tokens
        self._is_all = len(part) == len(question.workload)
        self._known: dict[tuple[str, Fleet, float, bool], Trial] = {}

    @property
    def trials(self) -> int:
        """Returns how many simulations there were."""
        return len(self._known)

    async def search(self, policy: str, *, guesses: Sequence[int]) -> list[Offer]:
        """Returns what a policy needs of each option alone, and the cheapest mix, over
        the busiest stretch."""
        found = await asyncio.gather(
            *(
                self._fewest(policy, at=at, guess=guess)
                for at, guess in enumerate(guesses)
            )
        )
        offers = [offer for offer in found if offer is not None]
        if self._question.payment is Payment.OWNED and offers:
            mix = await self._mix(policy, alone=found)
            offers += [mix] if mix is not None else []
        return offers

    async def settle(self, side: Side, offers: Iterable[Offer]) -> Offer | None:
        """Returns the cheapest offer of a side over the whole trace, None without any.

        What is cheapest over the busiest stretch is tried first; the next ones only
        while they might still be cheaper.
        """
        payment = self._question.payment
        mine = sorted(
            (o for o in offers if self._question.side_of(o.trial.policy) is side),
            key=lambda offer: offer.price_per_hour(payment),
        )
        if not self._question.is_whole or self._is_all:
            return mine[0] if mine else None
        best: Offer | None = None
        for offer in mine:
            price = offer.price_per_hour(payment)
            if best is not None and best.price_per_hour(payment) <= price:
                break
            whole = await self._over_all(offer)
            if whole is not None and (
                best is None
                or whole.price_per_hour(payment) < best.price_per_hour(payment)
            ):
                best = whole
        return best

    async def _over_all(self, offer: Offer) -> Offer | None:
        """The same policy and options over the whole trace; a mix as it is."""
        fleet, policy = offer.trial.fleet, offer.trial.policy
        at = [number for number, count in enumerate(fleet) if count]
        if len(at) == 1:
            return await self._fewest(
                policy, at=at[0], guess=fleet[at[0]], is_whole=True
            )
        trial = await self._try(policy, fleet, is_whole=True)
        return self._offer(trial, is_whole=True) if trial.is_met else None

    async def _fewest(self, policy: str, *, at: int, guess: int) -> Offer | None:
        """The fewest instances of an option, over the busiest stretch, as full as they
        may be; None if any number is too few."""
        fills = self._fills(policy, at=at)
        most = min(self._question.most_instances, 2 * guess + AMPLE)

        async def is_met(number: int) -> bool:
            fleet = self._alone(at, count=most)
            return (await self._try(policy, fleet, fill=fills[number])).is_met

        number = await first_met(is_met, count=len(fills))
        if number is None:
            return None
        return await self._count(
            policy, at=at, fill=fills[number], guess=guess, most=most
        )

    async def _count(
        self,
        policy: str,
        *,
        at: int,
        fill: float,
        guess: int,
        most: int,
        is_whole: bool = False,
    ) -> Offer | None:
        """The fewest instances of an option that are at most so full."""

        async def trial(count: int) -> Trial:
            fleet = self._alone(at, count=count)
            return await self._try(policy, fleet, fill=fill, is_whole=is_whole)

        async def is_met(count: int) -> bool:
            return (await trial(count)).is_met

        found = await smallest(is_met, guess=guess, most=most)
        if found.count is None:
            return None
        return self._offer(await trial(found.count), is_whole=is_whole)

    async def _over_all(self, offer: Offer) -> Offer | None:
        """The same policy and options over the whole trace, less full if need be."""
        fleet, policy, fill = offer.trial.fleet, offer.trial.policy, offer.trial.fill
        at = [number for number, count in enumerate(fleet) if count]
        if len(at) > 1:
            trial = await self._try(policy, fleet, fill=fill, is_whole=True)
            return self._offer(trial, is_whole=True) if trial.is_met else None
        count = fleet[at[0]]
        for lower in [one for one in self._fills(policy, at=at[0]) if one <= fill]:
            found = await self._count(
                policy,
                at=at[0],
                fill=lower,
                guess=count,
                most=count + AMPLE,
                is_whole=True,
            )
            if found is not None:
                return found
        return None

    async def _mix(self, policy: str, *, alone: Sequence[Offer | None]) -> Offer | None:
        """The cheapest mix; each option as full as it may be alone."""
        fills = [offer.trial.fill for offer in alone if offer is not None]

        async def judge(fleet: Fleet) -> Trial:
            return await self._try(policy, fleet, fill=min(fills))

        fleet = await cheapest_mix(
            judge,
            prices=[option.price_per_hour for option in self._options],
            alone=[None if o is None else max(o.trial.fleet) for o in alone],
            most_tries=self._question.mix_tries,
        )
        return None if fleet is None else self._offer(await judge(fleet))

    def _alone(self, at: int, *, count: int) -> Fleet:
        return tuple(
            count if number == at else 0 for number in range(len(self._options))
        )

    def _fills(self, policy: str, *, at: int) -> list[float]:
        """How full an instance may be, falling; all hold what has to be served."""
        if policy in USES_ALL:
            return [1.0]
        held = self._options[at].profile.capacity_tokens
        return [fill for fill in FILLS if int(fill * held) >= self._longest] or [1.0]

    async def _try(
        self, policy: str, fleet: Fleet, *, fill: float, is_whole: bool = False
    ) -> Trial:
        is_whole = is_whole or self._is_all
        key = policy, fleet, fill, is_whole
        if key not in self._known:
            question = self._question
            self._known[key] = await self._run(
                Task(
                    workload=question.workload if is_whole else self._part,
                    profiles=tuple(option.profile for option in self._options),
                    prices=tuple(o.price_per_hour for o in self._options),
                    fleet=fleet,
                    policy=policy,
                    headroom=question.headroom,
                    fill=fill,
                    slo=question.slo,
                )
            )
        return self._known[key]

    def _offer(self, trial: Trial, *, is_whole: bool = False) -> Offer:
        is_whole = is_whole or self._is_all
        return Offer(options=self._options, trial=trial, is_whole=is_whole)
