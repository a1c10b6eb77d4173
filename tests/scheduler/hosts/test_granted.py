"""A host's books of what its copies were granted."""

from mell_jax.scheduler.hosts.granted import Granted
from mell_jax.scheduler.ids import CopyId, RequestId
from tests.scheduler.hosts.speech import (
    FRONT,
    LEFT,
    ONE,
    OTHER_FRONT,
    RIGHT,
    THEIRS,
    TWO,
)

FIRST, SECOND, THIRD = CopyId(256), CopyId(512), CopyId(768)


def books() -> Granted:
    """Two rows on the left, of two front ends, and pages kept for another copy."""
    granted = Granted()
    granted.open(FIRST, request=ONE, device=LEFT, pages=2, is_row=True)
    granted.open(SECOND, request=THEIRS, device=LEFT, pages=3, is_row=True)
    granted.open(THIRD, request=TWO, device=LEFT, pages=4, is_row=False)
    return granted


def want(granted: Granted, copy_id: CopyId, pages: int) -> None:
    granted.copies[copy_id].wanted = pages


def test_pages_are_counted_where_they_were_granted() -> None:
    granted = books()
    granted.open(CopyId(1024), request=ONE, device=RIGHT, pages=5, is_row=True)
    assert (granted.pages_on(LEFT), granted.pages_on(RIGHT)) == (9, 5)
    assert granted.on(LEFT) == [FIRST, SECOND, THIRD]


def test_copies_are_found_by_their_front_end() -> None:
    granted = books()
    assert granted.of(FRONT) == [FIRST, THIRD]
    assert granted.of(OTHER_FRONT) == [SECOND]


def test_what_was_kept_for_a_copy_is_its_own_once_it_is_a_row() -> None:
    granted = books()
    granted.open(THIRD, request=TWO, device=LEFT, pages=3, is_row=True)
    held = granted.copies[THIRD]
    assert (held.is_row, held.pages) == (True, 4)  # it was granted more before
    assert granted.pages_on(LEFT) == 9
    granted.open(THIRD, request=TWO, device=LEFT, pages=6, is_row=False)
    assert (held.is_row, held.pages) == (True, 6)


def test_only_rows_that_want_more_than_they_have_lack_pages_oldest_first() -> None:
    granted = books()
    want(granted, SECOND, 4)
    want(granted, FIRST, 3)
    want(granted, THIRD, 9)  # no row
    assert list(granted.lacking(LEFT)) == [FIRST, SECOND]
    granted.copies[FIRST].pages = 3
    assert list(granted.lacking(LEFT)) == [SECOND]
    assert list(granted.lacking(RIGHT)) == []


def test_the_newest_row_goes_if_no_row_can_go_on() -> None:
    granted = books()
    want(granted, FIRST, 3)
    assert granted.newest_of_stuck(LEFT) is None  # the other goes on
    want(granted, SECOND, 4)
    assert granted.newest_of_stuck(LEFT) == SECOND
    assert granted.newest_of_stuck(RIGHT) is None


def test_the_front_end_of_a_copy_is_that_of_its_request() -> None:
    held = books().copies[SECOND]
    assert held.front == OTHER_FRONT
    assert held.request == RequestId(THEIRS)
