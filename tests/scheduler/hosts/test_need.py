"""What a fleet needs, as its controller sees it."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.need import Need, need_of
from mell_jax.scheduler.ids import RequestId
from tests.scheduler.hosts.speech import ONE, TWO, ask
from tests.scheduler.hosts.test_coordinator import A, C, Talk, fleet, new

THREE = RequestId(TWO + 1)


def test_nothing_is_known_before_the_fleet_is_there() -> None:
    talk = Talk(new(least_hosts=2))
    assert need_of(talk.coordinator) == Need()
    assert not need_of(talk.coordinator).is_short


def test_a_fleet_without_requests_is_idle() -> None:
    assert need_of(fleet().coordinator) == Need(
        hosts=("a", "b"), idle_hosts=("a", "b"), groups=2, idle_groups=2, waiting=0
    )


def test_a_host_that_has_a_request_is_not_idle() -> None:
    talk = fleet()
    talk.hear(C, ask(ONE, pages=5))
    assert need_of(talk.coordinator) == Need(
        hosts=("a", "b"), idle_hosts=("b",), groups=2, idle_groups=1, waiting=0
    )


def test_the_fleet_is_short_when_requests_wait_and_no_group_is_idle() -> None:
    talk = fleet()
    for request in (ONE, TWO, THREE):
        assert not need_of(talk.coordinator).is_short
        talk.hear(C, ask(request, pages=9))  # of ten that a group has
    found = need_of(talk.coordinator)
    assert (found.waiting, found.idle_groups, found.is_short) == (1, 0, True)


def test_a_host_that_leaves_is_not_counted() -> None:
    talk = fleet()
    talk.hear(A, words.Leave())
    assert need_of(talk.coordinator) == Need(
        hosts=("b",), idle_hosts=("b",), groups=1, idle_groups=1, waiting=0
    )
