"""Tries fleets of a question's options: each once, and only what a search asks for.

It knows which fleets there are to try and nothing of what is done with the answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import final

from mell_jax.planner.load import held_by
from mell_jax.planner.option import Option
from mell_jax.planner.question import Offer, Payment, Question, Unmet
from mell_jax.planner.search import Fleet, cheapest_mix, first_met, smallest
from mell_jax.planner.trial import Task, Trial
from mell_jax.scheduler.simulator.workload import Workload

Run = Callable[[Task], Awaitable[Trial]]
AMPLE = 4  # instances beyond what is expected: more would hardly help
FILLS = (1.0, 0.6, 0.36, 0.22, 0.13)  # of an instance's KV memory
USES_ALL = ("spread", "pinned_spread")  # so their number says how full they are
Fills = tuple[float, ...]


@final
class Trials:
    """Trials are over the busiest stretch, `part`, unless they are over the whole.

    Args:
      run: simulates; it may be asked for several at a time.
    """

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
        self._is_all = len(part) == len(question.workload)
        self._known: dict[tuple[str, Fleet, Fills, bool], Trial] = {}

    @property
    def count(self) -> int:
        """Returns how many there were."""
        return len(self._known)

    async def fewest(self, policy: str, *, at: int, guess: int) -> Offer | Unmet:
        """Returns the fewest instances of an option over the busiest stretch.

        They are as full as they may be with as many of them as one likes: the emptier
        they are kept, the sooner a prompt has its turn, and the more of them it takes.
        """
        fills = self._choices(policy, at=at)
        most = min(self._question.most_instances, 2 * guess + AMPLE)

        async def trial(number: int) -> Trial:
            return await self._alone(policy, at=at, count=most, fill=fills[number])

        async def is_met(number: int) -> bool:
            return (await trial(number)).is_met

        number = await first_met(is_met, count=len(fills))
        found = None
        if number is not None:
            found = await self._count(
                policy, at=at, fill=fills[number], guess=guess, most=most
            )
        if found is not None:
            return found
        share = (await trial(len(fills) - 1)).within_share
        return Unmet(
            kind=self._options[at].kind,
            policy=policy,
            reason=f"{share:.2%} are within on {most} x {self._options[at].name}, kept "
            "as empty as can be",
        )

    async def mix(self, policy: str, *, alone: Sequence[Offer | Unmet]) -> Offer | None:
        """Returns a mix of two options that costs less than the best one alone, None
        without; each is as full as it may be alone.

        Where all devices are paid for, it is the cheapest of the mixes that are tried.
        Where only those in use are, it is of the two cheapest options, as many of each
        as it takes alone, of which the policy opens what is cheapest.
        """
        offers = {
            at: offer for at, offer in enumerate(alone) if isinstance(offer, Offer)
        }
        if len(offers) < 2 or not self._question.mix_tries:
            return None
        places = range(len(alone))
        counts = [
            max(offers[at].trial.fleet) if at in offers else None for at in places
        ]
        fills = tuple(
            max(offers[at].trial.fills) if at in offers else 1.0 for at in places
        )
        best = min(map(self._question.price_of, offers.values()))

        async def judge(fleet: Fleet) -> Trial:
            return await self._try(policy, fleet, fills=fills)

        if self._question.payment is Payment.USED:
            pair = sorted(offers, key=lambda at: self._question.price_of(offers[at]))[
                :2
            ]
            fleet = tuple((counts[at] or 0) if at in pair else 0 for at in places)
        else:
            found = await cheapest_mix(
                judge,
                prices=[option.price_per_hour for option in self._options],
                alone=counts,
                most_tries=self._question.mix_tries,
            )
            if found is None:
                return None
            fleet = found
        offer = self._offer(await judge(fleet))
        is_cheaper = self._question.price_of(offer) < best
        return offer if offer.trial.is_met and is_cheaper else None

    async def over_all(self, offer: Offer) -> Offer | None:
        """Returns the same policy and options over the whole trace, with other numbers
        and emptier if need be; a mix as it is, or None."""
        trial = offer.trial
        at = [number for number, count in enumerate(trial.fleet) if count]
        if len(at) > 1:
            whole = await self._try(
                trial.policy, trial.fleet, fills=trial.fills, is_whole=True
            )
            return self._offer(whole, is_whole=True) if whole.is_met else None
        count, fill = trial.fleet[at[0]], trial.fills[at[0]]
        for lower in self._choices(trial.policy, at=at[0]):
            found = None
            if lower <= fill:
                found = await self._count(
                    trial.policy,
                    at=at[0],
                    fill=lower,
                    guess=count,
                    most=count + AMPLE,
                    is_whole=True,
                )
            if found is not None:
                return found
        return None

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
            return await self._alone(
                policy, at=at, count=count, fill=fill, is_whole=is_whole
            )

        async def is_met(count: int) -> bool:
            return (await trial(count)).is_met

        found = await smallest(is_met, guess=guess, most=most)
        if found.count is None:
            return None
        return self._offer(await trial(found.count), is_whole=is_whole)

    def _choices(self, policy: str, *, at: int) -> list[float]:
        """How full an instance may be, falling; none holds fewer requests than 1.0."""
        if policy in USES_ALL:
            return [1.0]
        profile, load = self._options[at].profile, self._question.workload
        held = held_by(load, profile=profile)
        longest = int((load.input_tokens + load.output_tokens)[held].max(initial=0))
        room = -(-longest // profile.page_tokens) * profile.page_tokens
        return [fill for fill in FILLS if int(fill * profile.capacity_tokens) >= room]

    async def _alone(
        self, policy: str, *, at: int, count: int, fill: float, is_whole: bool = False
    ) -> Trial:
        places = range(len(self._options))
        fleet = tuple(count if number == at else 0 for number in places)
        fills = tuple(fill if number == at else 1.0 for number in places)
        return await self._try(policy, fleet, fills=fills, is_whole=is_whole)

    async def _try(
        self, policy: str, fleet: Fleet, *, fills: Fills, is_whole: bool = False
    ) -> Trial:
        question = self._question
        is_whole = is_whole or self._is_all
        key = policy, fleet, fills, is_whole
        if key not in self._known:
            self._known[key] = await self._run(
                Task(
                    workload=question.workload if is_whole else self._part,
                    profiles=tuple(option.profile for option in self._options),
                    prices=tuple(o.price_per_hour for o in self._options),
                    fleet=fleet,
                    fills=fills,
                    policy=policy,
                    headroom=question.headroom,
                    slo=question.slo,
                )
            )
        return self._known[key]

    def _offer(self, trial: Trial, *, is_whole: bool = False) -> Offer:
        is_whole = is_whole or self._is_all
        return Offer(options=self._options, trial=trial, is_whole=is_whole)
