from mell_jax.frontend.share import Counted
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
