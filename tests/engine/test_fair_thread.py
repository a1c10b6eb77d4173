"""Tenants have turns at a thread, and what is cancelled or fails harms nobody."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.engine.fair_thread import FairThread


@pytest.fixture
def fair() -> Iterator[FairThread]:
    thread = FairThread("test")
    yield thread
    thread.close()


def held(thread: FairThread) -> threading.Event:
    """Keeps the thread busy until the event is set."""
    may_go, has_begun = threading.Event(), threading.Event()

    def wait() -> None:
        has_begun.set()
        may_go.wait(60)

    thread.submit(wait, tenant="first")
    assert has_begun.wait(60)
    return may_go


def order_of(jobs: list[str]) -> list[str]:
    """The tenants in the order of their turns, with the place of each job."""
    thread, done = FairThread("test"), list[str]()
    may_go = held(thread)
    count = {name: 0 for name in jobs}
    futures = []
    for name in jobs:
        job = partial(done.append, f"{name}{count[name]}")
        futures.append(thread.submit(job, tenant=name))
        count[name] += 1
    may_go.set()
    for future in futures:
        future.result(60)
    thread.close()
    return done


def test_a_flood_delays_others_by_one_job() -> None:
    assert order_of([*"aaaaa", *"bb", "c"]) == [
        *("a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"),
    ]


@given(st.lists(st.sampled_from("abcd"), max_size=20))
def test_no_tenant_waits_longer_than_one_job_of_each_other(jobs: list[str]) -> None:
    order = order_of(jobs)
    assert sorted(order) == sorted(
        f"{name}{i}" for name in set(jobs) for i in range(jobs.count(name))
    )
    for name in set(jobs):
        places = [i for i, job in enumerate(order) if job[0] == name]
        assert [order[place][1:] for place in places] == [*map(str, range(len(places)))]
        for before, after in zip([-1, *places], places, strict=False):
            between = [job[0] for job in order[before + 1 : after]]
            assert len(between) == len(set(between))


def test_errors_are_their_callers(fair: FairThread) -> None:
    failing = fair.submit(lambda: 1 / 0, tenant="a")
    with pytest.raises(ZeroDivisionError):
        failing.result(60)
    assert fair.submit(lambda: 5, tenant="a").result(60) == 5


def test_what_is_cancelled_is_not_done(fair: FairThread) -> None:
    may_go, done = held(fair), list[int]()
    futures = [fair.submit(partial(done.append, i), tenant="a") for i in range(3)]
    assert futures[1].cancel()
    may_go.set()
    futures[2].result(60)
    assert done == [0, 2]


def test_after_its_end_nothing_waits_any_more() -> None:
    thread = FairThread("test")
    may_go = held(thread)
    waiting: list[Future[None]] = [
        thread.submit(lambda: None, tenant=name) for name in "aab"
    ]
    thread.close()
    assert all(future.cancelled() for future in waiting)
    may_go.set()
