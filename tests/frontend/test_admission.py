"""Who is let in, with a clock that stands still unless told."""

import time

import pytest

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Admission, AdmissionLimits, OverloadedError
from mell_jax.frontend.admission import Ticket
from mell_jax.frontend.share import Held, Use


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def door(**limits: float) -> Admission:
    return Admission(AdmissionLimits(**limits), clock=Clock())  # type: ignore[arg-type]


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
    admission = door(max_queued=2)
    with enter(admission):
        with pytest.raises(OverloadedError):
            enter(admission, 2, tenant="b")
        assert (admission.queued, admission.num_tenants) == (1, 1)
    with pytest.raises(InvalidRequestError):
        enter(admission, 3)
    assert (admission.queued, admission.num_tenants) == (0, 0)


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ("max_queued", "this server lets wait at most 4"),
        ("max_tenant_open", "a tenant may have open at most 4"),
    ],
)
def test_what_could_never_fit_is_the_caller_s_mistake(bound: str, words: str) -> None:
    admission = door(**{bound: 4})
    enter(admission, 4).close()
    with pytest.raises(InvalidRequestError, match=rf"n asks for 5 .* {words}") as told:
        enter(admission, 5)
    assert told.value.field == "n"


def held(
    samples: int = 0, *, tokens: int = 0, requests: int = 1, tenant: str = "a"
) -> Held:
    use = Use(open=samples, queued=samples, queued_tokens=tokens)
    return Held(requests=requests, everyone=use, tenants={tenant: use})


def test_what_others_have_let_in_counts_too() -> None:
    admission = door(max_queued=4)
    admission.others = held(3)
    with pytest.raises(OverloadedError, match=r"3 samples wait and 2 more .* the 4 "):
        enter(admission, 2)
    enter(admission)
    with pytest.raises(OverloadedError, match="4 samples wait and 1 more"):
        enter(admission)
    admission.others = Held()
    enter(admission, 3)
    assert admission.queued == 4  # of its own


def test_prompt_tokens_at_others_count_too() -> None:
    admission = door(max_queued_tokens=100)
    admission.others = held(1, tokens=99)
    with pytest.raises(OverloadedError, match="99 prompt tokens wait and 2 more"):
        enter(admission).count(2)
    enter(admission).count(1)
    admission.others = Held()
    enter(admission).count(99)


def test_a_tenant_has_its_bounds_at_all_front_ends_together() -> None:
    admission = door(max_tenant_open=3, max_tenant_queued_tokens=10)
    admission.others = held(2, tokens=8)
    with pytest.raises(OverloadedError, match="this tenant has 2 samples open"):
        enter(admission, 2)
    with pytest.raises(OverloadedError, match=r"8 prompt tokens wait .* this tenant"):
        enter(admission).count(3)
    enter(admission, 3, tenant="b").count(3)


def test_what_is_told_is_what_is_inside() -> None:
    admission = door(max_tenant_open=9)
    assert admission.held(requests=0) == Held()
    enter(admission, 2).count(5)
    enter(admission, 3, tenant="b").begin(0)
    assert admission.held(requests=2) == Held(
        requests=2,
        everyone=Use(open=5, queued=4, queued_tokens=10),
        tenants={
            "a": Use(open=2, queued=2, queued_tokens=10),
            "b": Use(open=3, queued=2),
        },
    )


def test_tenants_are_told_of_only_where_they_have_bounds_or_parts_of_one() -> None:
    admission = door()
    enter(admission, 2)
    assert admission.held(requests=1) == Held(
        requests=1, everyone=Use(open=2, queued=2)
    )
    admission = door(max_queued=8)
    enter(admission, 2, tenant="")
    part = admission.grown("", requests=1, most_requests=100)
    both = Held(requests=1, everyone=Use(open=2, queued=2))
    assert part == both == admission.held(requests=1)
    enter(admission, 2)
    part = admission.grown("a", requests=2, most_requests=100)
    both = Held(
        requests=2,
        everyone=Use(open=4, queued=4),
        tenants={"a": Use(open=2, queued=2)},
    )
    assert part == both == admission.held(requests=2)


def test_of_a_full_queue_a_tenant_still_has_its_part() -> None:
    admission = door(max_queued=8)
    flood = [enter(admission, tenant="flood") for _ in range(8)]
    with pytest.raises(OverloadedError, match="8 samples wait and 1 more"):
        enter(admission, tenant="flood")
    for _ in range(4):  # half of 8
        enter(admission, tenant="light")
    with pytest.raises(OverloadedError, match="12 samples wait and 1 more"):
        enter(admission, tenant="light")
    for ticket in flood[:5]:
        ticket.close()
    enter(admission, tenant="flood")  # 7 of 8 wait: everybody may come
    with pytest.raises(OverloadedError):
        enter(admission, 5, tenant="flood")


def test_parts_of_a_full_queue_are_by_weight() -> None:
    admission = door(max_queued=8)
    for _ in range(8):
        enter(admission, tenant="flood")
    for _ in range(6):  # 3/4 of 8
        admission.enter(tenant="dear", samples=1, weight=3)
    with pytest.raises(OverloadedError):
        admission.enter(tenant="dear", samples=1, weight=3)


def test_never_is_more_inside_than_twice_the_bound() -> None:
    admission = door(max_queued=8)
    for number in range(100):
        for _ in range(8):
            try:
                enter(admission, tenant=f"tenant {number}")
            except OverloadedError:
                break
    assert admission.queued == 16


def test_prompt_tokens_have_parts_too() -> None:
    admission = door(max_queued_tokens=100)
    enter(admission, tenant="flood").count(100)
    with pytest.raises(OverloadedError):
        enter(admission, tenant="flood")
    enter(admission, tenant="light").count(50)
    with pytest.raises(OverloadedError, match="150 prompt tokens wait and 1 more"):
        enter(admission, tenant="light")


def test_a_flood_at_another_front_end_leaves_a_part_here() -> None:
    admission = door(max_queued=8)
    admission.others = held(8, tenant="flood")
    enter(admission, 4, tenant="light")
    with pytest.raises(OverloadedError):
        enter(admission, tenant="light")
    with pytest.raises(OverloadedError):
        enter(admission, tenant="flood")
    everyone = Use(open=8, queued=8)
    admission = door(max_queued=8)
    admission.others = Held(requests=8, everyone=everyone)  # of callers without a name
    enter(admission, 4, tenant="light")
    with pytest.raises(OverloadedError):
        enter(admission, tenant="")


def test_a_tenant_alone_has_the_bound_and_no_more() -> None:
    admission = door(max_queued=4)
    for _ in range(4):
        enter(admission)
    with pytest.raises(OverloadedError):
        enter(admission)


def test_growth_by_more_than_an_eighth_is_told_once() -> None:
    def grown(admission: Admission, tenant: str = "a", *, requests: int = 0) -> bool:
        return admission.grown(tenant, requests=requests, most_requests=80) is not None

    admission = door(
        max_queued=32, max_queued_tokens=800, max_tenant_open=16
    )  # eighths: 4, 100, 2
    for tenant in "abcd":
        enter(admission, tenant=tenant)
        assert not grown(admission, tenant)
    last = enter(admission, tenant="e")
    assert grown(admission, "e")
    assert not grown(admission, "e")
    last.count(100)
    assert not grown(admission, "e")
    enter(admission, tenant="f").count(1)
    assert grown(admission, "f")
    enter(admission)
    assert not grown(admission, "a")  # it has 2 samples, and nothing was told of it
    enter(admission)
    assert grown(admission, "a")
    assert not grown(admission, requests=10)
    assert grown(admission, requests=11)
    admission.held(requests=11)
    assert not any(grown(admission, tenant, requests=11) for tenant in "abcdef")


def test_of_growth_only_the_tenant_s_part_is_told() -> None:
    admission = door(max_tenant_open=1)
    enter(admission, tenant="b")
    enter(admission)
    assert admission.grown("a", requests=2, most_requests=100) == Held(
        requests=2,
        everyone=Use(open=2, queued=2),
        tenants={"a": Use(open=1, queued=1)},
    )


def test_the_wait_of_others_says_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(max_queued=1), clock=clock)

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
        AdmissionLimits(queue_timeout_s=bad)


def test_a_refusal_takes_less_than_a_millisecond() -> None:
    admission = door(max_queued=1)
    enter(admission)
    start_s = time.process_time()
    for _ in range(1000):
        with pytest.raises(OverloadedError):
            enter(admission)
    assert time.process_time() - start_s < 1.0
