from mell_jax.frontend.share import Counted, Held, Use
from mell_jax.serving.processes.shared_counts import SharedCounts


def refused(count: int) -> Counted:
    return Counted(refused={"overloaded": count})


def test_each_hears_the_latest_of_all_others() -> None:
    counts = SharedCounts()
    assert counts.counted_by_others(1) == Counted()
    counts.count(1, refused(1))
    counts.count(2, refused(10))
    counts.count(3, refused(100))
    counts.count(2, refused(20))
    assert counts.counted_by_others(1) == refused(120)
    assert counts.counted_by_others(2) == refused(101)
    assert counts.counted_by_others(9) == refused(121)


def test_what_was_counted_outlives_who_counted_it() -> None:
    counts = SharedCounts()
    counts.count(1, refused(1))
    counts.count(2, refused(10))
    counts.forget(1)
    counts.forget(1)
    counts.forget(3)  # had nothing to tell
    assert counts.counted_by_others(2) == refused(1)
    counts.count(4, refused(100))
    assert counts.counted_by_others(2) == refused(101)
    assert counts.counted_by_others(4) == refused(11)


def inside(count: int, *, tenant: str = "a") -> Held:
    use = Use(open=count)
    return Held(requests=count, everyone=use, tenants={tenant: use})


def test_each_hears_what_all_others_hold() -> None:
    counts = SharedCounts()
    assert counts.held_by_others(1) == Held()
    counts.hold(1, inside(1))
    counts.hold(2, inside(10))
    counts.hold(3, inside(100, tenant="b"))
    assert counts.held_by_others(1) == Held(
        requests=110,
        everyone=Use(open=110),
        tenants={"a": Use(open=10), "b": Use(open=100)},
    )
    assert counts.held_by_others(3) == inside(11)


def test_what_has_grown_is_told_without_other_tenants() -> None:
    counts = SharedCounts()
    counts.hold(1, inside(1, tenant="b"))
    counts.grow(1, inside(2))
    counts.grow(2, inside(10))
    counts.hold(3, inside(100))
    assert counts.held_by_others(9).tenants == {"a": Use(open=112), "b": Use(open=1)}
    assert counts.grown_at_others(3, inside(2)) == inside(12)
    assert counts.grown_at_others(3, Held()).tenants == {}


def test_the_dead_hold_nothing() -> None:
    counts = SharedCounts()
    counts.hold(1, inside(1))
    counts.hold(2, inside(10))
    counts.forget(1)
    assert counts.held_by_others(9) == inside(10)


def test_an_id_is_of_one_front_end_until_it_is_given_back() -> None:
    counts = SharedCounts()
    assert counts.claim(1, "a")
    assert counts.claim(2, "b")
    assert not counts.claim(2, "a")
    counts.release(2, "a")  # it is not its own
    assert not counts.claim(2, "a")
    counts.release(1, "a")
    counts.release(1, "a")
    assert counts.claim(2, "a")
    assert not counts.claim(1, "a")


def test_the_dead_have_no_ids() -> None:
    counts = SharedCounts()
    assert counts.claim(1, "a")
    assert counts.claim(1, "b")
    assert counts.claim(2, "c")
    counts.forget(1)
    assert counts.claim(2, "a")
    assert counts.claim(3, "b")
    assert not counts.claim(3, "c")
