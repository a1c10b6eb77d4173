"""Moves that wait for room: started once it is there, and forgotten when overtaken."""

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.admission import admit
from mell_jax.scheduler.placement.events import ONLY_MODEL, Arrive
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan import Decision, Move, Park, Place, Preempt
from mell_jax.scheduler.placement.plan_executor import PlanExecutor

A, B, C = DeviceGroupId(0), DeviceGroupId(1), DeviceGroupId(2)


class Books:
    """Three open instances of ten pages: r on A, s fills B."""

    def __init__(self) -> None:
        self.ledger = Ledger({ONLY_MODEL: ModelSpec(capacity_pages=10)}, look_s=0.0)
        for device in (A, B, C):
            self.ledger.add_idle(device)
            self.ledger.open(device, ONLY_MODEL)
        self.executor = PlanExecutor(self.ledger)
        self.r, self.s = self.request(1, 4), self.request(2, 10)
        self.ledger.settle(self.r, A)
        self.ledger.settle(self.s, B)

    def request(self, number: int, pages: int) -> RequestAccount:
        event = Arrive(request=RequestId(number), pages=pages, model=ONLY_MODEL)
        made = admit(event, ledger=self.ledger, serial=number)
        assert isinstance(made, RequestAccount)
        return made

    def apply(self, request: RequestAccount, device: DeviceGroupId | None) -> None:
        self.executor.draft.shift(request, device)
        self.executor.apply()
        self.ledger.check()

    def decided(self) -> list[Decision]:
        decisions, self.executor.decisions = self.executor.decisions, []
        return decisions


def move(number: int, *, way: tuple[int, int], pages: int = 4) -> Move:
    return Move(
        move=MoveId(number),
        request=RequestId(1),
        source=DeviceGroupId(way[0]),
        target=DeviceGroupId(way[1]),
        pages=pages,
        is_urgent=False,
    )


def test_a_move_waits_for_room_and_then_begins() -> None:
    books = Books()
    books.apply(books.r, B)
    books.executor.retry_deferred()
    assert books.decided() == []
    books.ledger.settle(books.s, None)
    books.executor.retry_deferred()
    assert books.decided() == [move(0, way=(0, 1))]
    books.executor.retry_deferred()
    assert books.decided() == []


def test_a_move_that_still_has_no_room_at_an_epoch_is_forgotten() -> None:
    books = Books()
    books.apply(books.r, B)
    books.executor.drop_deferred()
    books.ledger.settle(books.s, None)
    books.executor.retry_deferred()
    assert books.decided() == []


def test_a_move_that_was_overtaken_by_another_is_not_begun_later() -> None:
    books = Books()
    books.apply(books.r, B)  # no room: it waits
    books.apply(books.r, C)
    assert books.decided() == [move(0, way=(0, 2))]
    books.executor.retry_deferred()
    books.executor.end_move(MoveId(0), is_committed=True)
    books.ledger.check()
    books.ledger.settle(books.s, None)  # now there would be room
    books.executor.retry_deferred()
    assert books.decided() == []
    assert books.r.device == C


def test_a_move_that_ends_frees_the_end_that_does_not_own_the_request() -> None:
    for is_committed, home in ((True, C), (False, A)):
        books = Books()
        books.apply(books.r, C)
        books.executor.freed.clear()
        books.executor.end_move(MoveId(0), is_committed=is_committed)
        books.ledger.check()
        assert books.r.device == home and books.r.move is None
        pages = {d: books.ledger.instances[d].pages for d in (A, B, C)}
        assert pages == {A: 0, B: 10, C: 0} | {home: 4}
        assert set(books.executor.freed) == {A, C}


def test_what_waits_is_placed_what_is_shifted_to_nowhere_is_preempted() -> None:
    books = Books()
    new = books.request(3, 6)
    books.executor.draft.shift(books.r, None)
    books.executor.draft.shift(new, A)
    books.executor.draft.park(books.ledger.instances[C])
    books.executor.apply()
    books.ledger.check()
    assert books.decided() == [
        Preempt(request=RequestId(1), device=A),
        Park(device=C),
        Place(request=RequestId(3), device=A, pages=6),
    ]
    assert books.executor.preempted == [books.r]
    assert books.ledger.is_idle(C)


def test_a_paused_request_is_paused_at_both_ends_of_its_move() -> None:
    books = Books()
    instances = books.ledger.instances
    instances[A].stalled[books.r.id] = 6  # it wants two pages more
    books.apply(books.r, C)
    assert books.decided() == [move(0, way=(0, 2))]
    assert instances[A].stalled == instances[C].stalled == {books.r.id: 6}
    books.executor.end_move(MoveId(0), is_committed=True)
    assert (instances[A].stalled, instances[C].stalled) == ({}, {books.r.id: 6})
