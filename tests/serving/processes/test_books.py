from mell_jax.frontend.share import Counted, Held, Use
from mell_jax.serving.processes.books import Books


def refused(count: int) -> Counted:
    return Counted(refused={"overloaded": count})


def test_each_hears_the_latest_of_all_others() -> None:
    books = Books()
    assert books.counted_by_others(1) == Counted()
    books.count(1, refused(1))
    books.count(2, refused(10))
    books.count(3, refused(100))
    books.count(2, refused(20))
    assert books.counted_by_others(1) == refused(120)
    assert books.counted_by_others(2) == refused(101)
    assert books.counted_by_others(9) == refused(121)


def test_what_was_counted_outlives_who_counted_it() -> None:
    books = Books()
    books.count(1, refused(1))
    books.count(2, refused(10))
    books.forget(1)
    books.forget(1)
    books.forget(3)  # had nothing to tell
    assert books.counted_by_others(2) == refused(1)
    books.count(4, refused(100))
    assert books.counted_by_others(2) == refused(101)
    assert books.counted_by_others(4) == refused(11)


def inside(count: int, *, tenant: str = "a") -> Held:
    use = Use(open=count)
    return Held(requests=count, everyone=use, tenants={tenant: use})


def test_each_hears_what_all_others_hold() -> None:
    books = Books()
    assert books.held_by_others(1) == Held()
    books.hold(1, inside(1))
    books.hold(2, inside(10))
    books.hold(3, inside(100, tenant="b"))
    assert books.held_by_others(1) == Held(
        requests=110,
        everyone=Use(open=110),
        tenants={"a": Use(open=10), "b": Use(open=100)},
    )
    assert books.held_by_others(3) == inside(11)


def test_what_has_grown_is_told_without_other_tenants() -> None:
    books = Books()
    books.hold(1, inside(1, tenant="b"))
    books.grow(1, inside(2))
    books.grow(2, inside(10))
    books.hold(3, inside(100))
    assert books.held_by_others(9).tenants == {"a": Use(open=112), "b": Use(open=1)}
    assert books.grown_at_others(3, inside(2)) == inside(12)
    assert books.grown_at_others(3, Held()).tenants == {}


def test_the_dead_hold_nothing() -> None:
    books = Books()
    books.hold(1, inside(1))
    books.hold(2, inside(10))
    books.forget(1)
    assert books.held_by_others(9) == inside(10)


def test_an_id_is_of_one_front_end_until_it_is_given_back() -> None:
    books = Books()
    assert books.claim(1, "a")
    assert books.claim(2, "b")
    assert not books.claim(2, "a")
    books.release(2, "a")  # it is not its own
    assert not books.claim(2, "a")
    books.release(1, "a")
    books.release(1, "a")
    assert books.claim(2, "a")
    assert not books.claim(1, "a")


def test_the_dead_have_no_ids() -> None:
    books = Books()
    assert books.claim(1, "a")
    assert books.claim(1, "b")
    assert books.claim(2, "c")
    books.forget(1)
    assert books.claim(2, "a")
    assert books.claim(3, "b")
    assert not books.claim(3, "c")
