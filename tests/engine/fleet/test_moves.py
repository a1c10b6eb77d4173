"""Moves asked for together share links and prefill; what is deferred comes first."""

from mell_jax.engine.fleet.moves import Moves
from mell_jax.engine.fleet.profile import Profile
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Division, Mode, MoveDemand

A, B, C = DeviceGroupId(0), DeviceGroupId(1), DeviceGroupId(2)
TOY = ModelId("toy")
PROFILE = Profile(
    bytes_per_s={(a, b): 1000.0 for a in (A, B, C) for b in (A, B, C) if a != b},
    prefill_tokens_per_s={(A, TOY): 10.0, (B, TOY): 20.0, (C, TOY): 10.0},
)


def new_moves(*, mode: Mode | None = None) -> Moves:
    moves = Moves(PROFILE, epoch_s=1.0, mode=mode)
    for device in (A, B, C):
        moves.target_opens(device, TOY)
    return moves


def move(number: int, *, to: DeviceGroupId, is_urgent: bool = False) -> plan.Move:
    return plan.Move(
        move=MoveId(number),
        request=RequestId(number),
        source=A,
        target=to,
        pages=1,
        is_urgent=is_urgent,
    )


def divide(moves: Moves, **tokens: int) -> Division:
    """Requests of 8 bytes a token; `m1=16` gives move 1 that many tokens."""
    sizes = {int(name[1:]): count for name, count in tokens.items()}

    def demand_of(move: plan.Move) -> MoveDemand | None:
        count = sizes.get(move.move)
        return demand(moves, move, tokens=count) if count is not None else None

    return moves.divide(demand_of)


def demand(
    moves: Moves, move: plan.Move, *, tokens: int, cached: int = 0
) -> MoveDemand:
    return MoveDemand(
        move=move,
        links=moves.links(move),
        tokens=tokens,
        cached_tokens=cached,
        bytes_per_token=8.0,
    )


def begun(division: Division) -> dict[int, Mode]:
    return {int(demand.move.move): mode for demand, mode in division.begun}


def deferred(division: Division) -> list[int]:
    return [int(demand.move.move) for demand in division.deferred]


def test_a_move_takes_the_mode_that_leaves_more() -> None:
    moves = new_moves()
    moves.ask(move(1, to=B))
    moves.ask(move(2, to=B, is_urgent=True))
    division = divide(moves, m1=16, m2=115)  # 128 and 920 of 1000 bytes
    assert begun(division) == {2: Mode.KV, 1: Mode.TOKENS}
    assert not moves.is_asked


def test_what_has_no_room_is_deferred_and_urgent_at_the_next_epoch() -> None:
    moves = new_moves()
    for number in (1, 2):
        moves.ask(move(number, to=C))
    division = divide(moves, m1=100, m2=100)
    assert (begun(division), deferred(division)) == ({1: Mode.KV}, [2])
    assert not moves.is_asked
    moves.renew()
    assert moves.is_asked
    moves.ask(move(3, to=C))
    division = divide(moves, m2=100, m3=30)
    assert begun(division) == {2: Mode.KV}  # it comes first, though 3 frees more
    assert deferred(division) == [3]
    assert [d.move.is_urgent for d, _ in division.begun] == [False]  # to the protocol


def test_an_urgent_move_overdraws_and_later_epochs_pay() -> None:
    moves = new_moves()
    moves.ask(move(1, to=C, is_urgent=True))
    division = divide(moves, m1=200)
    assert (begun(division), division.violations) == ({1: Mode.KV}, 1)
    moves.renew()
    moves.ask(move(2, to=C))
    # 1600 of 1000 were used, 400 are left
    assert deferred(divide(moves, m2=100)) == [2]


def test_a_move_that_the_books_have_closed_never_begins() -> None:
    moves = new_moves()
    moves.ask(move(1, to=B))
    assert divide(moves) == Division(begun=(), deferred=(), violations=0)


def test_a_forced_mode_defers_nothing() -> None:
    moves = new_moves(mode=Mode.TOKENS)
    for number in (1, 2, 3):
        moves.ask(move(number, to=C))
    division = divide(moves, m1=1000, m3=1000)
    assert begun(division) == {1: Mode.TOKENS, 3: Mode.TOKENS}
    assert (division.deferred, division.violations) == ((), 0)


def test_cached_tokens_are_not_charged() -> None:
    moves = new_moves()
    moves.ask(move(1, to=C))
    division = moves.divide(lambda move: demand(moves, move, tokens=500, cached=400))
    assert begun(division) == {1: Mode.KV}


def test_a_move_waits_until_its_target_is_open() -> None:
    moves = Moves(PROFILE, epoch_s=1.0, mode=None)
    moves.ask(move(1, to=B))
    assert not moves.is_asked
    moves.target_opens(B, TOY)
    assert begun(divide(moves, m1=16)) == {1: Mode.KV}


def test_a_move_to_a_target_that_closed_before_it_opened_is_forgotten() -> None:
    moves = Moves(PROFILE, epoch_s=1.0, mode=None)
    moves.ask(move(1, to=B))
    moves.target_closes(B)
    moves.target_opens(B, TOY)
    assert not moves.is_asked
