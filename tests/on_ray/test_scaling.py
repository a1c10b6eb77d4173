"""How many hosts there are, by what is needed; nothing here has Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.on_ray.scaling import NO_CHANGE, Change, Scaling
from mell_jax.scheduler.hosts.need import Need

A, B, C = "ray-1", "ray-2", "ray-3"
BUSY = Need(hosts=(A, B), groups=2)


def short(*hosts: str, waiting: int = 1) -> Need:
    """Requests wait, and every group of these hosts is in use."""
    return Need(hosts=hosts, groups=len(hosts), waiting=waiting)


def idle(*hosts: str, of: tuple[str, ...] = (A, B)) -> Need:
    """Of those hosts these do nothing."""
    return Need(
        hosts=of, idle_hosts=hosts, groups=len(of), idle_groups=len(hosts), waiting=0
    )


def scaling(*, most: int = 2, idle_s: float = 10.0) -> Scaling:
    return Scaling(most=most, idle_s=idle_s)


def test_at_first_all_hosts_are_asked_for_once() -> None:
    tested = scaling(most=3)
    first = tested.look(Need(), living=set(), asked=0, now_s=0.0)
    assert first == Change(start=3)
    assert tested.look(Need(), living=set(), asked=3, now_s=99.0) == NO_CHANGE
    assert tested.look(None, living={A}, asked=2, now_s=100.0) == NO_CHANGE


def test_a_host_that_is_idle_for_long_is_given_back() -> None:
    tested = scaling()
    look = {"living": {A, B}, "asked": 0}
    assert tested.look(idle(B), **look, now_s=0.0) == NO_CHANGE
    assert tested.look(idle(B), **look, now_s=9.9) == NO_CHANGE
    assert tested.look(idle(B), **look, now_s=10.0) == Change(give_back=(B,))
    after = tested.look(idle(of=(A,)), living={A}, asked=0, now_s=11.0)
    assert after == NO_CHANGE


def test_work_between_makes_it_wait_anew() -> None:
    tested = scaling()
    look = {"living": {A, B}, "asked": 0}
    tested.look(idle(B), **look, now_s=0.0)
    tested.look(BUSY, **look, now_s=5.0)
    assert tested.look(idle(B), **look, now_s=11.0) == NO_CHANGE
    assert tested.look(idle(B), **look, now_s=21.0) == Change(give_back=(B,))


def test_a_controller_that_says_nothing_makes_it_wait_anew() -> None:
    tested = scaling()
    look = {"living": {A, B}, "asked": 0}
    tested.look(idle(B), **look, now_s=0.0)
    assert tested.look(None, **look, now_s=10.0) == NO_CHANGE
    assert tested.look(idle(B), **look, now_s=11.0) == NO_CHANGE


def test_the_last_host_stays() -> None:
    tested = scaling()
    tested.wanted = 1
    for now_s in (0.0, 10.0, 1e6):
        change = tested.look(idle(A, of=(A,)), living={A}, asked=0, now_s=now_s)
        assert change == NO_CHANGE


def test_hosts_are_given_back_one_after_the_other() -> None:
    tested = scaling(most=3)
    all_of_them = idle(A, B, C, of=(A, B, C))
    tested.look(all_of_them, living={A, B, C}, asked=0, now_s=0.0)
    first = tested.look(all_of_them, living={A, B, C}, asked=0, now_s=10.0)
    assert first == Change(give_back=(A,))
    second = tested.look(all_of_them, living={B, C}, asked=0, now_s=10.5)
    assert second == Change(give_back=(B,))
    assert tested.look(all_of_them, living={C}, asked=0, now_s=99.0) == NO_CHANGE


@pytest.mark.parametrize(
    ("living", "asked", "need"),
    [
        ({A, B}, 0, short(A, B)),  # as many as are allowed
        ({A}, 0, short()),  # one that starts may be enough
        ({A}, 0, Need(hosts=(A,), groups=2, idle_groups=1, waiting=5)),
        ({A}, 1, short(A)),  # one is on its way
    ],
)
def test_no_more_is_asked_for_than_helps(
    living: set[str], asked: int, need: Need
) -> None:
    tested = scaling()
    tested.wanted = len(living) + asked
    for now_s in (0.0, 2.0, 5.0):
        change = tested.look(need, living=living, asked=asked, now_s=now_s)
        assert change == NO_CHANGE


def test_load_brings_one_more_host_after_a_while() -> None:
    tested = scaling(most=3)
    tested.wanted = 1
    look = {"living": {A}, "asked": 0}
    assert tested.look(short(A), **look, now_s=0.0) == NO_CHANGE
    assert tested.look(short(A), **look, now_s=1.9) == NO_CHANGE
    assert tested.look(short(A), **look, now_s=2.0) == Change(start=1)


@pytest.mark.parametrize(("waves", "wanted"), [("++-", 2), ("+--", 1), ("+-", 1)])
def test_load_in_waves_brings_a_host_if_requests_wait_more_than_not(
    waves: str, wanted: int
) -> None:
    tested = scaling()
    tested.wanted = 1
    for now_s in range(30):  # each sign is a second
        need = short(A) if waves[now_s % len(waves)] == "+" else Need(hosts=(A,))
        tested.look(need, living={A}, asked=0, now_s=float(now_s))
    assert tested.wanted == wanted


def test_what_waited_long_ago_and_for_ever_brings_nothing() -> None:
    tested = scaling(most=2, idle_s=3.0)
    both = {"living": {A, B}, "asked": 0}
    for now_s in range(1000):
        assert tested.look(short(A, B), **both, now_s=float(now_s)) == NO_CHANGE
    tested.look(idle(B), **both, now_s=1000.0)
    assert tested.look(idle(B), **both, now_s=1003.0) == Change(give_back=(B,))
    after = tested.look(short(A), living={A}, asked=0, now_s=1003.5)
    assert after == NO_CHANGE


def test_a_first_look_late_in_the_life_of_a_machine_is_no_long_wait() -> None:
    tested = scaling(most=3)
    tested.wanted = 1
    assert tested.look(short(A), living={A}, asked=0, now_s=1e6) == NO_CHANGE


def test_what_waits_for_a_host_that_starts_needs_no_other() -> None:
    tested = scaling(most=3)
    tested.wanted = 2
    for now_s in (0.0, 10.0, 20.0):  # B has a node, and does not serve yet
        change = tested.look(short(A), living={A, B}, asked=0, now_s=now_s)
        assert change == NO_CHANGE
    assert tested.look(short(A, B), living={A, B}, asked=0, now_s=21.0) == NO_CHANGE


def test_a_lost_host_is_replaced_and_given_up_if_nobody_waits() -> None:
    tested = scaling()
    tested.look(BUSY, living={A, B}, asked=0, now_s=0.0)
    lost = Need(hosts=(A,), groups=1)
    assert tested.look(lost, living={A}, asked=0, now_s=1.0) == Change(start=1)
    assert tested.look(lost, living={A}, asked=1, now_s=9.0) == NO_CHANGE
    late = tested.look(lost, living={A}, asked=1, now_s=10.0)
    assert late == Change(is_withdrawn=True)
    assert tested.look(lost, living={A}, asked=0, now_s=11.0) == NO_CHANGE


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.booleans(), st.booleans()),
        max_size=60,
    )
)
def test_there_are_never_more_than_allowed_nor_none(
    looks: list[tuple[bool, int, bool, bool]],
) -> None:
    """Whatever is said: `Nodes` is played, with nodes that come or do not."""
    tested, living, asked, begun = scaling(most=3, idle_s=2.0), set[str](), 0, 0
    for now_s, (is_idle, waiting, come, answers) in enumerate(looks):
        hosts = tuple(sorted(living))
        said = Need(
            hosts=hosts,
            idle_hosts=hosts if is_idle else (),
            groups=len(hosts),
            idle_groups=len(hosts) if is_idle else 0,
            waiting=waiting,
        )
        before = len(living)
        change = tested.look(
            said if answers else None, living=living, asked=asked, now_s=float(now_s)
        )
        living -= set(change.give_back)
        asked = 0 if change.is_withdrawn else asked + change.start
        assert len(living) + asked <= 3
        assert before == 0 or living
        if come:
            for _ in range(asked):
                begun += 1
                living.add(f"ray-{begun}")
            asked = 0
