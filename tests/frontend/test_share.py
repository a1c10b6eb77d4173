"""Sums of what front ends tell, and a front end that knows of others."""

import asyncio

import pytest

from mell_jax.engine.histogram import Histogram
from mell_jax.frontend import AdmissionLimits, FrontEnd, FrontModel, OverloadedError
from mell_jax.frontend.meter import Meter
from mell_jax.frontend.share import Counted, Held, Use
from tests.frontend.fake_peers import FakePeers
from tests.frontend.test_meter import delta, sample
from tests.serving.fake_engine import INFO, FakeEngine


def seen(*ids: int, model: str = "a", refused: str = "overloaded") -> Counted:
    """By a front end with one request that got a few tokens and ended."""
    meter = Meter([model], clock=lambda: 100.0)
    with meter.begin([sample(prompt=3)], model=model, start_s=99.0) as (watch,):
        watch.see(delta(*ids, reason="stop"))
    meter.refuse(refused)
    return Counted(models=meter.measured(), refused=meter.refused)


def test_counts_and_histograms_of_two_front_ends_add_up() -> None:
    both = seen(5, 6) + seen(7, refused="draining")
    assert both.refused == {"overloaded": 1, "draining": 1}
    measured = both.models["a"]
    assert measured.prompt_tokens == 6
    assert measured.generation_tokens == 3
    assert measured.finished == {"stop": 2}
    assert sum(measured.first_token_s.counts) == 2
    assert measured.first_token_s.total == 2.0
    assert sum(measured.request_generation_tokens.counts) == 2
    assert measured.request_generation_tokens.total == 3.0


def test_models_that_only_one_has_seen_are_kept() -> None:
    both = seen(5) + seen(6, 7, model="b")
    assert both.models["a"].generation_tokens == 1
    assert both.models["b"].generation_tokens == 2
    assert Counted() + seen(5) == seen(5) == seen(5) + Counted()


def test_histograms_that_could_not_be_added_up_are_refused() -> None:
    (measured,) = seen(5).models.values()
    values = {name: getattr(measured, name) for name in measured.__slots__}
    values["queue_s"] = Histogram(bounds=(1.0,), counts=(0, 0), total=0.0)
    with pytest.raises(ValueError, match=r"queue_s has bounds of its own: \(1.0,\)"):
        type(measured)(**values)
    with pytest.raises(ValueError, match="1 bounds need one count more, got 1"):
        Histogram(bounds=(1.0,), counts=(0,), total=0.0)


def test_a_front_end_tells_what_it_has_seen_and_adds_what_others_have() -> None:
    async def scenario() -> None:
        peers = FakePeers(counted=seen(5, 6, model="letters"))
        front_end = FrontEnd(
            FakeEngine().send, models=[FrontModel(info=INFO)], peers=peers
        )
        front_end.meter.refuse("draining")
        whole = await front_end.counted()
        assert whole.refused == {"draining": 1, "overloaded": 1}
        assert whole.models["letters"].generation_tokens == 2
        (told,) = peers.told
        assert told.refused == {"draining": 1}

    asyncio.run(scenario())


def test_a_front_end_alone_has_seen_everything() -> None:
    async def scenario() -> None:
        front_end = FrontEnd(FakeEngine().send, models=[FrontModel(info=INFO)])
        front_end.meter.refuse("draining")
        assert (await front_end.counted()).refused == {"draining": 1}

    asyncio.run(scenario())


def test_what_is_held_adds_up_tenant_by_tenant() -> None:
    one, two = Use(open=3, queued=2, queued_tokens=20), Use(open=1)
    both = Held(requests=2, everyone=one, tenants={"a": one}) + Held(
        requests=1, everyone=two, tenants={"a": two, "b": two}
    )
    four = Use(open=4, queued=2, queued_tokens=20)
    assert both == Held(requests=3, everyone=four, tenants={"a": four, "b": two})
    with pytest.raises(ValueError, match="queued must not be below 0"):
        Use(queued=-1)


def test_a_part_updates_the_whole() -> None:
    one, two = Use(open=1), Use(open=2)
    whole = Held(requests=2, everyone=two, tenants={"a": one, "b": one})
    assert whole.only(["b", "c"]) == Held(
        requests=2, everyone=two, tenants={"b": one, "c": Use()}
    )
    part = Held(requests=3, everyone=Use(open=3), tenants={"b": two})
    assert whole.updated(part) == Held(
        requests=3, everyone=Use(open=3), tenants={"a": one, "b": two}
    )


def test_others_requests_count_as_open() -> None:
    async def scenario() -> None:
        peers = FakePeers()
        front_end = FrontEnd(
            FakeEngine().send, models=[FrontModel(info=INFO)], max_open=2, peers=peers
        )
        front_end.admission.others = Held(requests=1)
        with front_end.open():
            assert (front_end.num_open, front_end.num_open_in_all) == (1, 2)
            with pytest.raises(OverloadedError, match="2 requests are open, the most"):
                front_end.open()
            front_end.admission.others = Held()
            front_end.open().close()

    asyncio.run(scenario())


def test_others_hear_at_once_of_much_that_was_let_in() -> None:
    async def scenario() -> None:
        peers = FakePeers()
        front_end = FrontEnd(
            FakeEngine().send,
            models=[FrontModel(info=INFO)],
            peers=peers,
            limits=AdmissionLimits(max_queued=8),
        )
        with front_end.open():
            for _ in range(2):
                front_end.admission.enter(tenant="a", samples=1)
                front_end.tell_growth("a")
            front_end.tell_growth("a")
        use = Use(open=2, queued=2)  # named: a full queue has a part for each tenant
        assert peers.grown == [Held(requests=1, everyone=use, tenants={"a": use})]

    asyncio.run(scenario())
