"""One stream that follows copy after copy, and takes each token once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.hosts.messages import Row
from mell_jax.scheduler.hosts.stream import Stream
from mell_jax.scheduler.ids import Epoch
from tests.scheduler.hosts.speech import HERE, THERE, ask, place, row


def following(copy_id: int) -> Stream:
    stream = Stream(ask())
    stream.follow(place(copy_id))
    return stream


def take(stream: Stream, said: Row, *, epoch: Epoch = HERE) -> list[tuple[int, ...]]:
    """The start and tokens of what is passed on."""
    return [(each.start, *each.tokens) for each in stream.take(said, epoch=epoch)]


def test_a_stream_knows_its_prompt_and_what_it_has_taken() -> None:
    stream = Stream(ask(known=6))
    assert (stream.count, stream.known) == (2, 6)
    stream.follow(place(7))
    assert take(stream, row(7, 2, 50)) == [(2, 50)]
    assert (stream.count, stream.known) == (3, 7)


def test_tokens_of_other_copies_are_refused() -> None:
    stream = following(7)
    assert take(stream, row(6, 0, 50)) == []
    assert take(stream, row(7, 0, 50), epoch=THERE) == []  # another host's copy 7
    assert take(stream, row(7, 0, 51)) == [(0, 51)]


def test_a_token_that_comes_again_is_not_passed_on_again() -> None:
    stream = following(7)
    take(stream, row(7, 0, 50, 51))
    assert take(stream, row(7, 1, 51, 52)) == [(2, 52)]
    assert take(stream, row(7, 0, 50)) == []


def test_an_end_is_passed_on_without_tokens() -> None:
    stream = following(7)
    take(stream, row(7, 0, 50))
    (end,) = stream.take(row(7, 1, is_end=True), epoch=HERE)
    assert end.is_end and end.tokens == ()


def test_nothing_is_followed_before_a_start_and_after_none() -> None:
    stream = Stream(ask())
    assert stream.latest is None
    assert take(stream, row(7, 0, 50)) == []
    stream.follow(place(7))
    stream.follow(None)
    assert take(stream, row(7, 0, 50)) == []


def test_the_next_copy_waits_for_the_tokens_of_the_one_before() -> None:
    stream = following(7)
    stream.follow_from(2, place(9, THERE))
    assert stream.latest == place(9, THERE)
    assert stream.awaited == [place(7)]
    assert take(stream, row(9, 2, 52), epoch=THERE) == []
    assert take(stream, row(7, 0, 50)) == [(0, 50)]
    assert take(stream, row(7, 1, 51, 99)) == [(1, 51), (2, 52)]  # not its 99
    assert stream.place == place(9, THERE)
    assert stream.awaited == []


def test_two_commits_may_wait_one_behind_the_other() -> None:
    stream = following(7)
    stream.follow_from(1, place(8, THERE))
    stream.follow_from(2, place(9))
    assert stream.awaited == [place(7), place(8, THERE)]
    assert take(stream, row(9, 2, 52)) == []
    assert take(stream, row(8, 1, 51), epoch=THERE) == []
    assert take(stream, row(7, 0, 50)) == [(0, 50), (1, 51), (2, 52)]


def test_a_commit_of_what_is_there_already_is_followed_at_once() -> None:
    stream = following(7)
    take(stream, row(7, 0, 50))
    stream.follow_from(1, place(9))
    assert list(stream.release()) == []
    assert stream.place == place(9)


def test_a_copy_that_has_gone_is_awaited_in_vain() -> None:
    stream = following(7)
    stream.follow(None)
    stream.follow_from(2, place(9, THERE))
    assert stream.awaited == [None]


def test_a_start_forgets_what_waits() -> None:
    stream = following(7)
    stream.follow_from(2, place(9))
    take(stream, row(9, 2, 52))
    stream.follow(place(11))
    assert take(stream, row(11, 0, 60, 61)) == [(0, 60, 61)]
    assert stream.latest == place(11)


def test_no_copy_can_follow_at_a_token_that_is_past() -> None:
    stream = following(7)
    take(stream, row(7, 0, 50, 51))
    with pytest.raises(AssertionError, match="follows at 1, after 2"):
        stream.follow_from(1, place(9))


def test_a_link_in_order_leaves_no_gap() -> None:
    with pytest.raises(AssertionError, match="leaves a gap after 0"):
        take(following(7), row(7, 1, 51))


@given(st.data())
def test_any_split_over_copies_gives_every_token_once(data: st.DataObject) -> None:
    turns = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    stream = following(0)
    queues: list[list[Row]] = []
    begin = 0
    for copy_id, length in enumerate(turns):
        if copy_id:
            stream.follow_from(begin, place(copy_id))
        rows = [row(copy_id, at, at) for at in range(begin, begin + length)]
        queues.append(rows)
        begin += length
    passed: list[int] = []
    while any(queues):
        queue = data.draw(st.sampled_from([each for each in queues if each]))
        for each in stream.take(queue.pop(0), epoch=HERE):
            passed += each.tokens
    assert passed == list(range(begin))
    assert stream.count == begin
