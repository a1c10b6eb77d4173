"""What a controller tells of its fleet, of hosts whose every word stands here."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts import tally, view
from mell_jax.scheduler.hosts.roll import Seat
from mell_jax.scheduler.hosts.tally import (
    BegunMoves,
    CarriedMoves,
    Counts,
    EndedMoves,
    plus,
)
from mell_jax.scheduler.hosts.view import (
    GroupSeen,
    LinkSeen,
    ModelSeen,
    MoveSeen,
    Overview,
    overview_of,
)
from mell_jax.scheduler.ids import RequestId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.migration.records import MovePhase
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.transfer import Mode
from tests.scheduler.hosts.speech import ONE, TWO, ask
from tests.scheduler.hosts.test_coordinator import (
    COPY,
    FIRST,
    LEFT,
    RIGHT,
    SECOND,
    A,
    B,
    C,
    Talk,
    fleet,
    running,
    told,
)

THREE = RequestId(TWO + 1)


def look(talk: Talk) -> Overview:
    return overview_of(talk.coordinator)


def groups(talk: Talk) -> list[GroupSeen]:
    return [group for host in look(talk).hosts for group in host.groups]


def moving() -> Talk:
    """Request one wants more than its group has, so one of the two is to move."""
    talk = running(ONE, TWO, pages=5)
    talk.hear(A, words.Want(request=ONE, copy_id=COPY, pages=6))
    talk.hear(B, words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=0.5))
    return talk


def test_hosts_are_told_with_their_groups_and_pages() -> None:
    overview = look(running(ONE, pages=4))
    assert [(host.name, host.epoch) for host in overview.hosts] == [
        ("a", FIRST),
        ("b", SECOND),
    ]
    assert [group for host in overview.hosts for group in host.groups] == [
        GroupSeen(device=LEFT, number=0, model=ONLY_MODEL, is_open=True, used_pages=4),
        GroupSeen(device=RIGHT, number=0, model=None),
    ]
    assert overview.models == (ModelSeen(name=ONLY_MODEL, lower_bound=1, waiting=0),)
    assert overview.policy == "best_fit" and overview.moves == ()


def test_requests_are_told_as_columns_and_those_beyond_a_bound_are_counted(
    monkeypatch,
) -> None:
    talk = running(ONE, TWO, pages=4)
    talk.hear(C, ask(THREE, pages=9))
    seen = look(talk).requests
    assert seen.numbers == (ONE, TWO, THREE)
    assert seen.devices[:2] == (LEFT, LEFT) and seen.pages == (4, 4, 9)
    assert seen.prompts == (4, 4, 4) and seen.left_out == 0
    monkeypatch.setattr(view, "MOST_REQUESTS", 2)
    seen = look(talk).requests
    assert seen.numbers == (ONE, TWO) and seen.left_out == 1


def test_a_move_is_told_with_how_far_it_is() -> None:
    talk = moving()
    (move,) = look(talk).moves
    assert (move.source, move.target) == (LEFT, RIGHT)
    assert (move.mode, move.phase) == (Mode.KV, MovePhase.RESERVING)
    assert [group.reserved_pages for group in groups(talk)] == [0, 5]
    counts = look(talk).counts
    assert counts.begun == (BegunMoves(mode=Mode.KV, count=1),)
    assert counts.activations == 2 and counts.activation_s == 1.5
    assert counts.pauses == 1


def committed() -> Talk:
    talk = moving()
    (move,) = look(talk).moves
    request = move.request
    owner = talk.coordinator.controller.owners[request]
    assert owner.move is not None
    source, copy_id = owner.copy_id, owner.move.copy_id
    talk.hear(
        B,
        told(
            messages.Reserved(request=request, copy_id=copy_id, cached=0), device=RIGHT
        ),
    )
    assert look(talk).moves[0].phase is MovePhase.COPYING
    talk.hear(
        A,
        told(
            messages.Stopped(
                request=request, copy_id=source, to_copy_id=copy_id, since=4, tail=(7,)
            )
        ),
    )
    talk.hear(B, told(messages.Ready(request=request, copy_id=copy_id), device=RIGHT))
    talk.hear(A, told(messages.Released(request=request, copy_id=source)))
    return talk


def test_a_move_that_is_over_is_counted_by_hosts_and_groups() -> None:
    overview = look(committed())
    assert overview.moves == ()
    assert overview.counts.carried == (
        CarriedMoves(
            source=Seat(host="a", number=0), target=Seat(host="b", number=0), count=1
        ),
    )
    (ended,) = overview.counts.ended
    assert ended == EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=True, count=1)


def test_pairs_of_groups_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(tally, "MOST_PAIRS", 0)
    overview = look(committed())
    assert overview.counts.carried == () and len(overview.counts.ended) == 1


def test_a_lost_host_is_no_more_and_what_it_had_starts_again() -> None:
    talk = running(ONE, TWO, pages=4)
    talk.cut(A)
    overview = look(talk)
    assert [host.name for host in overview.hosts] == ["b"]
    assert (overview.counts.losses, overview.counts.replays) == (1, 2)


def test_a_host_that_leaves_gives_its_groups_back_and_loses_nothing() -> None:
    talk = fleet()
    talk.hear(A, words.Leave())
    assert [group.is_given_back for group in groups(talk)] == [True, False]
    talk.cut(A)
    assert look(talk).counts.losses == 0


def test_links_that_were_measured_are_told_while_both_ends_are_there() -> None:
    talk = fleet()
    talk.hear(
        B, words.LinkMeasured(source=LEFT, device=RIGHT, nbytes=3_000_000, seconds=1.5)
    )
    link = LinkSeen(source=LEFT, target=RIGHT, bytes_per_s=2e6)
    assert look(talk).links == (link,)
    talk.cut(A)
    assert look(talk).links == ()


def test_counts_of_two_controllers_are_added() -> None:
    left, right = Seat(host="a", number=0), Seat(host="b", number=1)
    one = Counts(
        begun=(BegunMoves(mode=Mode.KV, count=2),),
        ended=(EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=True, count=2),),
        carried=(CarriedMoves(source=left, target=right, count=2),),
        losses=1,
        activation_s=0.5,
    )
    two = Counts(
        begun=(
            BegunMoves(mode=Mode.TOKENS, count=1),
            BegunMoves(mode=Mode.KV, count=3),
        ),
        ended=(EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=False, count=1),),
        carried=(CarriedMoves(source=left, target=right, count=1),),
        losses=2,
        activation_s=0.25,
        pauses=4,
    )
    assert plus(one, two) == Counts(
        begun=(
            BegunMoves(mode=Mode.KV, count=5),
            BegunMoves(mode=Mode.TOKENS, count=1),
        ),
        ended=(
            EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=True, count=2),
            EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=False, count=1),
        ),
        carried=(CarriedMoves(source=left, target=right, count=3),),
        losses=3,
        activation_s=0.75,
        pauses=4,
    )
    assert plus(Counts(), one) == one


def test_a_move_that_has_not_begun_waits() -> None:
    talk = running(ONE, TWO, pages=5)
    talk.hear(A, words.Want(request=ONE, copy_id=COPY, pages=6))  # b is still opening
    assert look(talk).moves == (
        MoveSeen(
            request=look(talk).moves[0].request,
            source=LEFT,
            target=RIGHT,
            mode=None,
            phase=None,
        ),
    )
