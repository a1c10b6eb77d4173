"""A front end's view of the others, with a test in place of the engine's process."""

import asyncio

import pytest

from mell_jax.frontend import DuplicateRequestError, FrontEnd, FrontModel
from mell_jax.frontend.share import Counted, Held, Use
from mell_jax.serving.problem import NotAnsweredError
from mell_jax.serving.processes.peer_client import PeerClient
from mell_jax.serving.processes.remote import News
from mell_jax.serving.processes.wire import (
    AbortRequests,
    Beat,
    Claim,
    Claimed,
    CountAsked,
    CountTold,
    Grown,
    Pulse,
    ReleaseClaim,
    ToEngine,
)
from tests.serving.fake_engine import INFO, FakeEngine

OURS = Counted(refused={"overloaded": 1})
THEIRS = Counted(refused={"draining": 7})
LOAD = FakeEngine().load()


class Harness:
    """Must be made in an event loop."""

    def __init__(self, *, is_alone: bool = False, patience_s: float = 50.0) -> None:
        self.told: list[ToEngine] = []
        self.peer_client = PeerClient(
            self.told.append, is_alone=is_alone, patience_s=patience_s
        )
        self.engine = FakeEngine()
        self.front_end = FrontEnd(
            self.engine.send, models=[FrontModel(info=INFO)], peers=self.peer_client
        )

    def hear(self, message: News) -> None:
        self.peer_client.hear(message, front_end=self.front_end)


def test_a_pulse_is_answered_with_what_was_seen() -> None:
    async def scenario() -> None:
        harness = Harness()
        harness.front_end.meter.refuse("draining")
        harness.hear(Pulse(load=harness.engine.load(), is_ready=True))
        with harness.front_end.open():
            harness.hear(Pulse(load=harness.engine.load(), is_ready=True))
        idle, beat = harness.told
        assert isinstance(idle, Beat)
        assert isinstance(beat, Beat)
        assert (idle.held.requests, beat.held.requests) == (0, 1)
        assert beat.counted.refused == {"draining": 1}
        assert list(beat.counted.models) == ["letters"]

    asyncio.run(scenario())


def test_what_others_hold_is_heard() -> None:
    async def scenario() -> None:
        harness = Harness()
        one, two = Use(open=1), Use(open=2)
        others = Held(requests=3, everyone=two, tenants={"a": one, "b": one})
        harness.hear(Pulse(load=harness.engine.load(), is_ready=True, others=others))
        assert harness.front_end.num_open_in_all == 3
        part = Held(requests=4, everyone=two, tenants={"b": two})
        harness.hear(Grown(part=part))
        assert harness.front_end.num_open_in_all == 4
        assert harness.front_end.admission.others.tenants == {"a": one, "b": two}

    asyncio.run(scenario())


@pytest.mark.parametrize("is_alone", [False, True])
def test_only_where_there_are_others_are_they_told_of_growth(is_alone: bool) -> None:
    async def scenario() -> None:
        harness = Harness(is_alone=is_alone)
        part = Held(requests=4)
        harness.peer_client.grow(part)
        assert harness.told == ([] if is_alone else [Grown(part=part)])

    asyncio.run(scenario())


def test_an_id_is_claimed_and_released() -> None:
    async def scenario() -> None:
        harness = Harness()
        with harness.front_end.open("a") as request:
            assert harness.told == [Claim(number=1, request_id="a")]
            harness.hear(Claimed(number=1, is_free=True))
            await request.confirm()
        with harness.front_end.open("b") as request:
            harness.hear(Claimed(number=2, is_free=False))
            with pytest.raises(DuplicateRequestError):
                await request.confirm()
        assert harness.told[1:] == [
            ReleaseClaim(request_id="a"),
            Claim(number=2, request_id="b"),
            ReleaseClaim(request_id="b"),
        ]

    asyncio.run(scenario())


def test_nobody_is_asked_where_there_is_nobody() -> None:
    async def scenario() -> None:
        harness = Harness(is_alone=True)
        with harness.front_end.open("a") as request:
            await request.confirm()
        assert harness.told == []

    asyncio.run(scenario())


def test_answers_find_who_asked() -> None:
    async def scenario() -> None:
        harness = Harness()
        both = [
            asyncio.ensure_future(harness.peer_client.count(OURS)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        assert harness.told == [
            CountAsked(number=1, counted=OURS),
            CountAsked(number=2, counted=OURS),
        ]
        harness.hear(CountTold(number=2, counted=THEIRS, load=LOAD))
        harness.hear(CountTold(number=1, counted=Counted(), load=LOAD))
        assert [await each for each in both] == [Counted(), THEIRS]
        harness.hear(
            CountTold(number=1, counted=THEIRS, load=LOAD)
        )  # nobody waits for it
        harness.hear(CountTold(number=77, counted=THEIRS, load=LOAD))

    asyncio.run(scenario())


def test_who_gets_no_answer_is_told_so() -> None:
    async def scenario() -> None:
        harness = Harness(patience_s=0.01)
        with pytest.raises(NotAnsweredError, match=r"has not told in 0.01 s what"):
            await harness.peer_client.count(OURS)
        harness.hear(CountTold(number=1, counted=THEIRS, load=LOAD))  # too late

    asyncio.run(scenario())


@pytest.mark.parametrize("is_alone", [False, True])
def test_only_where_there_are_others_are_they_asked_to_abort(is_alone: bool) -> None:
    async def scenario() -> None:
        harness = Harness(is_alone=is_alone)
        harness.front_end.abort(["a", "b"])
        asked = [AbortRequests(request_ids=("a", "b"))]
        assert harness.told == ([] if is_alone else asked)

    asyncio.run(scenario())
