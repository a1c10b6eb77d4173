"""Which way pages go."""

from mell_jax.hosts.pages.choice import AGAIN, LEAST_BYTES, TRIES, Choice, PagesBy

BIG = 2**24


def ways(choice: Choice, count: int, *, seconds: dict[bool, float]) -> list[bool]:
    """Whether each of so many parcels goes by transfer, if ways take so long."""
    gone = []
    for _ in range(count):
        is_transfer = choice.is_transfer(BIG)
        choice.note(BIG, seconds=seconds[is_transfer], is_transfer=is_transfer)
        gone.append(is_transfer)
    return gone


def chooses(pages_by: PagesBy, *, both_can: bool = True) -> Choice:
    return Choice(pages_by, both_can=both_can)


def test_an_operator_chooses_if_both_ends_can() -> None:
    even = {True: 1.0, False: 1.0}
    assert ways(chooses("sockets"), 5, seconds=even) == [False] * 5
    assert ways(chooses("transfer"), 5, seconds=even) == [True] * 5
    for pages_by in ("transfer", "auto"):
        choice = chooses(pages_by, both_can=False)  # type: ignore[arg-type]
        assert ways(choice, 5, seconds=even) == [False] * 5


def test_the_faster_way_is_found_and_the_other_tried_again() -> None:
    for is_faster in (True, False):
        seconds = {is_faster: 1.0, not is_faster: 2.0}
        gone = ways(chooses("auto"), 2 * TRIES + 2 * AGAIN, seconds=seconds)
        assert gone[: 2 * TRIES] == [True] * TRIES + [False] * TRIES
        rest = gone[2 * TRIES :]
        assert rest.count(is_faster) == 2 * AGAIN - 2
        assert rest[AGAIN - 1] is not is_faster


def test_a_way_that_becomes_faster_is_noticed() -> None:
    choice = chooses("auto")
    ways(choice, 2 * TRIES, seconds={True: 2.0, False: 1.0})
    assert not choice.is_transfer(BIG)
    gone = ways(choice, 10 * AGAIN, seconds={True: 0.1, False: 1.0})
    assert gone[-AGAIN:].count(True) >= AGAIN - 1


def test_the_first_time_which_connects_does_not_count() -> None:
    choice = chooses("auto")
    for seconds in (100.0, 1.0, 1.0):
        choice.note(BIG, seconds=seconds, is_transfer=True)
    for _ in range(TRIES):
        choice.note(BIG, seconds=2.0, is_transfer=False)
    assert choice.is_transfer(BIG)


def test_small_parcels_go_by_sockets_and_tell_nothing() -> None:
    choice = chooses("auto")
    for _ in range(100):
        assert not choice.is_transfer(LEAST_BYTES - 1)
        choice.note(LEAST_BYTES - 1, seconds=1.0, is_transfer=False)
    assert choice.is_transfer(BIG)  # which is not measured yet


def test_after_a_failure_all_goes_by_sockets() -> None:
    for pages_by in ("transfer", "auto"):
        choice = chooses(pages_by)  # type: ignore[arg-type]
        choice.give_up()
        assert ways(choice, 200, seconds={False: 1.0}) == [False] * 200
