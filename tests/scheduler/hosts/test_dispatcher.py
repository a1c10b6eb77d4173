"""What the dispatcher makes of decisions and answers, told through a coordinator."""

from dataclasses import replace

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import CopyId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.speech import FRONT, ONE, ask
from tests.scheduler.hosts.test_coordinator import (
    COPY,
    FIRST,
    LEFT,
    RIGHT,
    A,
    B,
    C,
    Talk,
    _kinds,
    host_join,
    new,
    running,
    told,
)

MOVED = CopyId(512)


def bring_up(talk: Talk, *, peak_pages: int | None = None) -> None:
    """One host; a request of five pages runs there."""
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, host_join("a"))
    talk.beat()
    talk.beat()
    talk.hear(C, words.Reached(epoch=FIRST))
    talk.hear(C, replace(ask(pages=5), peak_pages=peak_pages))
    talk.hear(A, words.GroupOpened(device=LEFT, model=ONLY_MODEL, took_s=1.0))
    talk.hear(A, told(messages.Started(request=ONE, copy_id=COPY)))


def moving() -> Talk:
    """The first host is about to leave: its request moves to the second one."""
    talk = running(ONE)
    talk.hear(A, words.Leave())
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    assert _kinds(talk.hear(B, opened)) == [(C, "Reserve")]
    return talk


def test_the_target_of_a_move_stays_open_when_its_source_is_lost() -> None:
    talk = moving()
    assert _kinds(talk.cut(A)) == [
        (C, "HostsChanged"),
        (B, "HostsChanged"),
        (B, "Release"),  # of what was kept for the move
        (C, "Disowned"),
    ]  # and not CloseGroup and OpenGroup: the weights would be loaded again
    released = messages.Released(request=ONE, copy_id=MOVED)
    assert _kinds(talk.hear(B, told(released, device=RIGHT))) == [(C, "Start")]
    assert list(talk.coordinator.machine.ledger.instances) == [RIGHT]


# Pages.


def test_a_row_gets_a_share_of_much_that_is_free_beforehand() -> None:
    talk = Talk(new(capacity_pages=200, pages_ahead=3))
    bring_up(talk)
    grant = words.Grant(request=ONE, copy_id=COPY, pages=9)
    want = words.Want(request=ONE, copy_id=COPY, pages=6)
    assert talk.hear(A, want) == [(A, grant)]  # three of the 194 that are free
    assert talk.hear(A, want) == [(A, grant)]
    talk.coordinator.machine.ledger.check()
    talk.hear(C, words.Over(request=ONE))
    assert talk.coordinator.machine.ledger.total_pages(ONLY_MODEL) == 0


def test_a_row_gets_what_it_asks_for_and_no_more_where_little_is_free() -> None:
    talk = Talk(new(capacity_pages=20, pages_ahead=3))
    bring_up(talk)
    want = words.Want(request=ONE, copy_id=COPY, pages=6)
    assert talk.hear(A, want) == [(A, words.Grant(request=ONE, copy_id=COPY, pages=6))]


def test_a_row_gets_nothing_that_it_will_never_need() -> None:
    talk = Talk(new(capacity_pages=200, pages_ahead=3))
    bring_up(talk, peak_pages=7)
    want = words.Want(request=ONE, copy_id=COPY, pages=6)
    assert talk.hear(A, want) == [(A, words.Grant(request=ONE, copy_id=COPY, pages=7))]


# Who comes back.


def test_a_request_that_returns_starts_when_its_past_is_settled_and_not_before() -> (
    None
):
    talk = running(ONE)
    assert _kinds(talk.hear(C, ask(known=6))) == [(A, "Release"), (C, "Disowned")]
    assert talk.hear(C, ask(known=7)) == []  # the newer word counts
    released = messages.Released(request=ONE, copy_id=COPY)
    ((to, again),) = talk.hear(A, told(released))
    assert (to, again.message.request) == (C, ONE)
    assert talk.coordinator.requests[ONE].ask.known == 7


def test_what_is_noted_of_a_lost_device_is_dropped() -> None:
    talk = running(ONE)
    dispatcher = talk.coordinator._dispatcher
    measured = words.LinkMeasured(source=LEFT, device=RIGHT, nbytes=8, seconds=2.0)
    talk.hear(B, measured)
    assert dispatcher._since.keys() == {LEFT}
    talk.cut(A)
    assert dispatcher._since.keys() == {RIGHT}
    assert dispatcher.carriage._prefill_tokens.keys() == {RIGHT}
    assert dispatcher.carriage._link_bytes == {}
