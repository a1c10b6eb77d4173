"""Waiting for several devices: the first result, a message or the time ends it."""

import gc
import threading
import time

import pytest

from mell_jax.engine.fleet.arrivals import WatchedArrivals, wait_for
from mell_jax.scheduler.ids import DeviceGroupId

A, B = DeviceGroupId(0), DeviceGroupId(1)


class Promise:
    """A result that comes when a test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self._come = threading.Event()
        self._error = error

    @property
    def is_ready(self) -> bool:
        return self._come.is_set()

    def come(self) -> None:
        self._come.set()

    def wait(self) -> None:
        self._come.wait()
        if self._error is not None:
            raise self._error


def watchers() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "mell-watch"}


def seconds(arrivals: WatchedArrivals, *promises: Promise, most_s: float) -> float:
    start_s = time.monotonic()
    devices = (DeviceGroupId(n) for n in range(len(promises)))
    arrivals.wait(dict(zip(devices, promises, strict=True)), most_s=most_s)
    return time.monotonic() - start_s


def test_what_is_here_is_not_waited_for() -> None:
    arrivals, here, before = WatchedArrivals(), Promise(), watchers()
    here.come()
    assert seconds(arrivals, Promise(), here, most_s=30.0) < 10.0
    assert watchers() == before


@pytest.mark.parametrize("error", [None, RuntimeError("the device has died")])
def test_the_first_result_ends_it(error: Exception | None) -> None:
    arrivals, slow = WatchedArrivals(), Promise()
    for _ in range(3):  # also after an error
        fast = Promise(error)
        threading.Timer(0.05, fast.come).start()
        assert seconds(arrivals, slow, fast, most_s=30.0) < 10.0
        assert fast.is_ready and not slow.is_ready
    slow.come()


def test_a_message_ends_it_also_one_that_came_before() -> None:
    arrivals, never = WatchedArrivals(), Promise()
    threading.Timer(0.05, arrivals.ring).start()
    assert seconds(arrivals, never, most_s=30.0) < 10.0
    arrivals.ring()
    arrivals.ring()
    assert seconds(arrivals, never, most_s=30.0) < 10.0
    assert seconds(arrivals, never, most_s=0.05) >= 0.05  # both were one
    never.come()


def test_results_that_were_seen_to_come_end_no_later_wait() -> None:
    arrivals = WatchedArrivals()
    for _ in range(20):
        first, second = Promise(), Promise()
        threading.Timer(0.002, first.come).start()
        threading.Timer(0.002, second.come).start()
        seconds(arrivals, first, second, most_s=30.0)
        first.wait(), second.wait()
    assert seconds(arrivals, Promise(), Promise(), most_s=0.05) >= 0.05


def test_time_ends_it_and_without_results_it_is_a_sleep() -> None:
    arrivals, never = WatchedArrivals(), Promise()
    assert 0.05 <= seconds(arrivals, never, most_s=0.05) < 10.0
    assert 0.05 <= seconds(arrivals, most_s=0.05) < 10.0
    assert seconds(arrivals, never, most_s=0.0) < 10.0
    never.come()


def test_one_result_is_waited_for_through_messages() -> None:
    arrivals, soon, never = WatchedArrivals(), Promise(), Promise()
    threading.Timer(0.01, arrivals.ring).start()
    threading.Timer(0.1, soon.come).start()
    assert wait_for(arrivals, soon, device=A, most_s=30.0)
    assert not wait_for(arrivals, never, device=A, most_s=0.05)
    never.come()


def test_its_threads_end_with_it() -> None:
    gc.collect()
    before, arrivals = watchers(), WatchedArrivals()
    late = [Promise(), Promise()]
    seconds(arrivals, *late, most_s=0.01)
    mine = watchers() - before
    assert len(mine) == 2
    del arrivals
    for promise in late:
        promise.come()
    for thread in mine:
        thread.join(20.0)
        assert not thread.is_alive()


def test_the_end_waits_a_moment_for_what_is_late_and_no_longer() -> None:
    before, arrivals, soon, never = watchers(), WatchedArrivals(), Promise(), Promise()
    seconds(arrivals, soon, never, most_s=0.01)
    threading.Timer(0.1, soon.come).start()
    begin_s = time.monotonic()
    arrivals.end(most_s=0.5)
    assert 0.5 <= time.monotonic() - begin_s < 10.0
    assert len(watchers() - before) == 1
    never.come()
