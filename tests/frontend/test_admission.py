"""Who is let in, with a clock that stands still unless told."""

import time

import pytest

from mell_jax.frontend import Admission, Limits, OverloadedError
from mell_jax.frontend.admission import Ticket


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def door(**limits: float) -> Admission:
    return Admission(Limits(**limits), clock=Clock())  # type: ignore[arg-type]


def enter(admission: Admission, samples: int = 1, *, tenant: str = "a") -> Ticket:
    return admission.enter(tenant=tenant, samples=samples)


def test_without_limits_everybody_is_let_in() -> None:
    admission = door()
    for _ in range(1000):
        enter(admission, 16).count(10**9)
    assert admission.queued == 16000


def test_samples_are_counted_and_not_requests() -> None:
    admission = door(max_queued=4)
    enter(admission, 3)
    with pytest.raises(OverloadedError, match=r"3 samples wait and 2 more .* the 4 "):
        enter(admission, 2)
    enter(admission, 1)
    assert admission.queued == 4


def test_a_sample_with_a_token_waits_no_more() -> None:
    admission = door(max_queued=2)
    ticket = enter(admission, 2)
    assert ticket.begin(1) is True
    assert ticket.begin(1) is False
    assert admission.queued == 1
    enter(admission)
    with pytest.raises(OverloadedError):
        enter(admission)


def test_prompt_tokens_of_all_samples_wait() -> None:
    admission = door(max_queued_tokens=100)
    first = enter(admission, 2)
    first.count(30)
    assert admission.queued_tokens == 60
    second = enter(admission)
    with pytest.raises(OverloadedError, match=r"60 prompt tokens wait and 41 more"):
        second.count(41)
    second.close()
    second = enter(admission)
    second.count(40)
    with pytest.raises(OverloadedError, match="100 prompt tokens wait and 1 more"):
        enter(admission)  # before anything is tokenized
    first.begin(0)
    enter(admission).count(30)
    assert admission.queued_tokens == 100


def test_a_long_prompt_is_let_in_where_nothing_waits() -> None:
    admission = door(max_queued_tokens=100)
    ticket = enter(admission)
    ticket.count(5000)
    with pytest.raises(OverloadedError):
        enter(admission)
    ticket.begin(0)
    enter(admission).count(1)


def test_a_tenant_has_its_own_bounds() -> None:
    admission = door(max_tenant_open=2, max_tenant_queued_tokens=10)
    mine = enter(admission, 2)
    mine.begin(0)
    with pytest.raises(OverloadedError, match="this tenant has 2 samples open") as told:
        enter(admission)
    assert told.value.reason == "tenant_quota"
    other = enter(admission, tenant="b")
    other.count(10)
    with pytest.raises(OverloadedError, match="10 that this tenant may have waiting"):
        enter(admission, tenant="b")
    mine.close()
    enter(admission, 2)


def test_what_is_closed_leaves_nothing_behind() -> None:
    admission = door(max_queued=10)
    for number in range(100):
        with enter(admission, 3, tenant=str(number)) as ticket:
            ticket.count(7)
            ticket.begin(number % 3)
    assert (admission.queued, admission.queued_tokens) == (0, 0)
    assert admission.num_tenants == 0


def test_a_refusal_changes_nothing() -> None:
    admission = door(max_queued=1)
    with pytest.raises(OverloadedError):
        enter(admission, 2)
    assert (admission.queued, admission.num_tenants) == (0, 0)


def test_the_wait_of_others_says_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(Limits(max_queued=1), clock=clock)

    def told_s() -> float:
        with enter(admission), pytest.raises(OverloadedError) as caught:
            enter(admission)
        return caught.value.retry_after_s

    assert told_s() == 1.0  # nobody has waited yet
    for _ in range(50):
        with enter(admission) as ticket:
            clock.now_s += 10.0
            ticket.begin(0)
    assert 9.0 < told_s() <= 10.0
    for _ in range(50):
        with enter(admission) as ticket:
            clock.now_s += 1000.0
            ticket.begin(0)
    assert told_s() == 60.0


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_bounds_are_positive_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="queue_timeout_s must be above 0, got"):
        Limits(queue_timeout_s=bad)


def test_a_refusal_takes_less_than_a_millisecond() -> None:
    admission = door(max_queued=1)
    enter(admission)
    start_s = time.process_time()
    for _ in range(1000):
        with pytest.raises(OverloadedError):
            enter(admission)
    assert time.process_time() - start_s < 1.0
