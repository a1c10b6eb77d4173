"""A toy fleet whose weights change, and what each of its tokens has to be.

Everything that instances compute is written down as it is launched: which weights
compute which position of which copy of a request. A page that is found in a cache has
to be of the weights of then; a copy that moved has what its source had. So each token
is known from the tokens before it, in the head if need be:

    factor(its weights) * sum of scale(weights of position i) * token i
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.engine.admin import OpenRequests, UpdateWeights, WeightsUpdated
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.instance import InFlight, Instance
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.slots import Request
from mell_jax.scheduler.ids import DeviceGroupId, Serial, Tokens
from mell_jax.scheduler.plan import StepPlan
from tests.engine.fleet.toy_fleet import MAX_TOKENS, TOY, toy_fleet
from tests.toy import VOCAB, Transcript

UNKNOWN = -1
Generations = npt.NDArray[np.int64]

MOST_STEPS = 5000


def factor_of(generation: int) -> int:
    return 1 + generation * 3 % 7


def scale_of(generation: int) -> int:
    return 1 + generation * 2 % 5


Over = Callable[[int], jax.Array | None]


@partial(jax.jit, donate_argnums=0, keep_unused=True)
def written_over(old: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.full_like(old, number)


class ToyWeights:
    """The toy's two numbers, for whichever group asks.

    Args:
      fleet: that has places for them.
      factor: the first of them.
      scale: the second.
      is_streamed: whether they are made as they are asked for.
      breaks_after: so many of them, on the device.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        factor: int,
        scale: int,
        is_streamed: bool = False,
        breaks_after: tuple[int, int] | None = None,
    ) -> None:
        self._held = fleet.instance_pool.held(TOY)
        self._numbers = (factor, scale)
        self._breaks_after = breaks_after
        self.is_streamed = is_streamed
        self.is_own = True
        self.kept: frozenset[int] = frozenset()
        self.nbytes = 8

    def parts(
        self, device: DeviceGroupId, *, over: Over
    ) -> Iterator[tuple[int, jax.Array]]:
        for place, number in enumerate(self._numbers):
            if self._breaks_after == (device, place):
                raise OSError("the file ends here")
            like = self._held[device].like[place]
            old = over(place) if self.is_streamed else None
            if old is None:
                array = jnp.full(like.shape, number, like.dtype)
                yield place, jax.device_put(array, like.sharding)
            else:
                yield place, written_over(old, np.asarray(number, like.dtype))


@final
class Record:
    """What was computed, and by which weights."""

    def __init__(self) -> None:
        self.generation = 0  # of what is launched from now on
        self.cached_tokens = 0  # found by requests that were admitted
        self._copies: dict[Serial, Generations] = {}
        self._home: dict[int, Serial] = {}  # by handle
        self._sampled: dict[tuple[int, int], tuple[int, Generations]] = {}

    def start(self, request: Request) -> None:
        self._home[request.handle] = request.serial

    def reserve(self, request: Request, *, cached: int) -> None:
        mine = self._copies[request.serial] = np.full(MAX_TOKENS, UNKNOWN)
        mine[:cached] = self.generation
        self.cached_tokens += cached

    def begin(self, request: Request) -> None:
        mine = self._copies[request.serial]
        source = self._copies.get(self._home[request.handle])
        if source is not None:
            np.copyto(mine, source, where=mine == UNKNOWN)
        self.start(request)

    def launch(self, plan: StepPlan, *, requests: dict[Serial, Request]) -> None:
        for entry in plan.admitted:
            mine = self._copies[entry.serial] = np.full(MAX_TOKENS, UNKNOWN)
            mine[: entry.cached] = self.generation
            self.cached_tokens += entry.cached
        for row, serial in enumerate(map(Serial, plan.serials.tolist())):
            mine, end = self._copies[serial], int(plan.kv_lens[row])
            mine[plan.starts[row] : end] = self.generation
            if plan.samples[row]:
                handle = requests[serial].handle
                self._sampled[handle, end] = (self.generation, mine[:end].copy())

    def check(self, seen: Transcript, *, prompts: dict[int, Sequence[int]]) -> int:
        """Checks every token; returns how many had pages of several weights."""
        mixed = 0
        for handle, tokens in seen.tokens.items():
            known = np.array([*prompts[handle], *tokens])
            for at, version in enumerate(seen.versions[handle]):
                end = len(prompts[handle]) + at
                generation, pages = self._sampled[handle, end]
                assert UNKNOWN not in pages
                scales = np.array([scale_of(each) for each in pages.tolist()])
                total = factor_of(generation) * int((scales * known[:end]).sum())
                said = f"token {at} of {handle} by {generation} over {pages}"
                assert known[end] == total % VOCAB, said
                assert version == str(generation), said
                mixed += len(set(pages.tolist())) > 1
        return mixed


class Watched(Instance):
    """An instance that writes down what it computes."""

    def __init__(self, *args: Any, record: Record, **more: Any) -> None:
        super().__init__(*args, **more)
        self._book = record

    def start(self, request: Request, *, tokens: Tokens) -> None:
        super().start(request, tokens=tokens)
        self._book.start(request)

    def reserve(self, request: Request, **more: Any) -> int | None:
        cached = super().reserve(request, **more)
        if cached is not None:
            self._book.reserve(request, cached=cached)
        return cached

    def begin(self, serial: Serial, **more: Any) -> None:
        super().begin(serial, **more)
        self._book.begin(self._requests[serial])

    def _dispatch(self, plan: StepPlan) -> InFlight:
        self._book.launch(plan, requests=self._requests)
        return super()._dispatch(plan)


def watched_fleet(record: Record, **more: Any) -> Fleet:
    """A toy fleet whose every computed position goes into the record."""
    fleet = toy_fleet(make_instance=partial(Watched, record=record), **more)
    first = ToyWeights(fleet, factor=factor_of(0), scale=scale_of(0))
    for device, held in fleet.instance_pool.held(TOY).items():
        for place, array in first.parts(device, over=held.own):
            held.replace(place, array, is_own=True)
    return fleet


def update(
    fleet: Fleet,
    record: Record,
    open_requests: OpenRequests = "keep",
    *,
    is_streamed: bool = False,
) -> WeightsUpdated:
    """Gives the fleet the next weights."""
    number = record.generation + 1
    answer = fleet.administer(
        UpdateWeights(
            weights=ToyWeights(
                fleet,
                factor=factor_of(number),
                scale=scale_of(number),
                is_streamed=is_streamed,
            ),
            open_requests=open_requests,
        )
    )
    record.generation = number
    assert isinstance(answer, WeightsUpdated)
    assert answer.version == str(number)
    return answer


def give(fleet: Fleet, *, factor: int, scale: int, then: OpenRequests) -> None:
    """Gives the fleet these weights, of which no record is kept."""
    weights = ToyWeights(fleet, factor=factor, scale=scale)
    fleet.administer(UpdateWeights(weights=weights, open_requests=then))


def tokens_until(fleet: Fleet, seen: Transcript, count: int) -> None:
    """Makes steps until the first request has so many tokens."""
    while len(seen.tokens.get(0, ())) < count:
        seen.read(fleet.step())


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=count)


def run(fleet: Fleet, seen: Transcript) -> None:
    """Makes steps until there is nothing to do, which has to be soon."""
    for _ in range(MOST_STEPS):
        if not fleet.has_work:
            return
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    raise AssertionError(f"there is still work after {MOST_STEPS} steps")
