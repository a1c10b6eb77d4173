"""One division over the moves of an epoch, with numbers done by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Capacities, Division, LinkId, Mode, MoveDemand

SOURCE, TARGET = DeviceGroupId(0), DeviceGroupId(1)
LINK = LinkId("a-b")


def demand(
    move: int,
    tokens: int,
    *,
    cached: int = 0,
    frees: int = 1,
    is_urgent: bool = False,
    target: DeviceGroupId = TARGET,
    bytes_per_token: float = 100.0,
) -> MoveDemand:
    """A move over the only link."""
    decided = plan.Move(
        move=MoveId(move),
        request=RequestId(move),
        source=SOURCE,
        target=target,
        pages=frees,
        is_urgent=is_urgent,
    )
    return MoveDemand(
        move=decided,
        links=(LINK,),
        tokens=tokens,
        cached_tokens=cached,
        bytes_per_token=bytes_per_token,
    )


def modes(division: Division) -> dict[int, Mode]:
    return {int(demand.move.move): mode for demand, mode in division.begun}


def deferred(division: Division) -> list[int]:
    return [int(demand.move.move) for demand in division.deferred]


def capacities(*, link_bytes: float, prefill: float) -> Capacities:
    return Capacities(link_bytes={LINK: link_bytes}, prefill_tokens={TARGET: prefill})


def test_a_fast_link_carries_pages() -> None:
    asked = demand(0, 50)
    divided = capacities(link_bytes=10_000, prefill=100).divide([asked])
    # KV leaves 50% of the link, TOKENS 50% of the prefill and 98% of the link: a tie
    assert divided == Division(begun=((asked, Mode.KV),), deferred=(), violations=0)


def test_a_slow_link_carries_tokens() -> None:
    divided = capacities(link_bytes=4_000, prefill=100).divide([demand(0, 50)])
    assert modes(divided) == {0: Mode.TOKENS}


def test_mixed_pages_move_as_pages_whatever_that_takes() -> None:
    mixed = replace(demand(0, 50), is_mixed=True)
    assert mixed.modes == (Mode.KV,)
    shared = capacities(link_bytes=4_000, prefill=100)
    assert deferred(shared.divide([mixed])) == [0]
    urgent = replace(demand(1, 50, is_urgent=True), is_mixed=True)
    divided = shared.divide([urgent])
    assert modes(divided) == {1: Mode.KV}
    assert divided.violations == 1
    ample = capacities(link_bytes=10_000, prefill=100)
    assert modes(ample.divide([mixed])) == {0: Mode.KV}


def test_a_mixed_request_counts_by_its_pages_in_the_order() -> None:
    # As tokens it would free a page for 50 bytes, as pages for 2,500.
    mixed = replace(demand(0, 50, bytes_per_token=50.0), is_mixed=True)
    other = demand(1, 500, bytes_per_token=1.0)
    divided = capacities(link_bytes=1e6, prefill=1e6).divide([mixed, other])
    assert [each.move.move for each, _ in divided.begun] == [1, 0]


def test_moves_that_all_go_as_tokens_are_of_those_that_can() -> None:
    queue = MoveQueue(capacities(link_bytes=1.0, prefill=1.0), mode=Mode.TOKENS)
    asked = [replace(demand(0, 50), is_mixed=True), demand(1, 50)]
    for each in asked:
        queue.ask(each.move)
    divided = queue.divide({each.move: each for each in asked}.get)
    assert modes(divided) == {0: Mode.KV, 1: Mode.TOKENS}


def test_the_crossover_is_where_link_bytes_are_kv_bytes_times_prefill_rate() -> None:
    # a 13B model: 0.82 MB a token and 5,000 tokens/s cross at 4.1 GB/s
    def mode(link_bytes_per_s: float) -> Mode:
        shared = Capacities(
            link_bytes={LINK: link_bytes_per_s}, prefill_tokens={TARGET: 5_000.0}
        )
        move = demand(0, 1_000, bytes_per_token=0.82e6)
        return modes(shared.divide([move]))[0]

    assert mode(4.2e9) is Mode.KV
    assert mode(4.0e9) is Mode.TOKENS
    assert mode(1.25e9) is Mode.TOKENS  # 10 Gbps


def test_moves_share_links_and_targets() -> None:
    shared = capacities(link_bytes=10_000, prefill=100)
    divided = shared.divide([demand(0, 60), demand(1, 60), demand(2, 60)])
    # 0 copies 6,000 bytes; 1 would need 6,000 of 4,000: it prefills 60; 2 has neither
    assert modes(divided) == {0: Mode.KV, 1: Mode.TOKENS}
    assert deferred(divided) == [2]
    assert divided.violations == 0


def test_an_urgent_move_goes_first_and_is_never_deferred() -> None:
    shared = capacities(link_bytes=10_000, prefill=100)
    moves = [demand(0, 60), demand(1, 60), demand(2, 300, is_urgent=True)]
    divided = shared.divide(moves)
    assert list(modes(divided)) == [2]
    assert deferred(divided) == [0, 1] or divided.violations == 1
    assert divided.violations == 1


def test_what_frees_most_per_byte_goes_before_the_rest() -> None:
    shared = capacities(link_bytes=6_000, prefill=1)
    divided = shared.divide([demand(0, 60, frees=4), demand(1, 60, frees=5)])
    assert modes(divided) == {1: Mode.KV}
    assert deferred(divided) == [0]


def test_a_cached_prefix_is_not_charged() -> None:
    shared = capacities(link_bytes=1_100, prefill=1)
    assert deferred(shared.divide([demand(0, 60)])) == [0]
    assert modes(shared.divide([demand(0, 60, cached=50)])) == {0: Mode.KV}


def test_unbounded_capacities_copy() -> None:
    shared = capacities(link_bytes=math.inf, prefill=math.inf)
    assert modes(shared.divide([demand(0, 10**9)])) == {0: Mode.KV}


def test_unknown_links_and_impossible_prefixes_are_refused() -> None:
    with pytest.raises(ValueError, match="no capacity is known for 7"):
        capacities(link_bytes=1, prefill=1).divide(
            [demand(0, 1, target=DeviceGroupId(7))]
        )
    with pytest.raises(ValueError, match="3 of 2 tokens cached"):
        demand(0, 2, cached=3)


def test_what_was_overdrawn_is_missing_in_the_next_epoch() -> None:
    shared = capacities(link_bytes=10_000, prefill=1)
    assert (
        shared.divide([demand(0, 150, is_urgent=True)]).violations == 1
    )  # 15,000 bytes
    shared.renew()
    assert deferred(shared.divide([demand(1, 51)])) == [1]
    assert modes(shared.divide([demand(2, 50)])) == {2: Mode.KV}
    shared.renew()
    assert modes(shared.divide([demand(3, 100)])) == {3: Mode.KV}


sizes = st.integers(1, 400)


@given(
    moves=st.lists(st.tuples(sizes, st.booleans()), max_size=12),
    link=st.integers(0, 50_000),
    prefill=st.integers(0, 500),
)
def test_a_division_is_complete_deterministic_and_overdraws_for_urgent_moves_only(
    moves: list[tuple[int, bool]], link: int, prefill: int
) -> None:
    demands = [
        demand(n, size, is_urgent=urgent) for n, (size, urgent) in enumerate(moves)
    ]
    divided = capacities(link_bytes=link, prefill=prefill).divide(demands)
    again = capacities(link_bytes=link, prefill=prefill).divide(demands)
    assert divided == again
    assert sorted([*modes(divided), *deferred(divided)]) == list(range(len(moves)))
    assert not any(demand.is_urgent for demand in divided.deferred)
    used = sum(demand.link_bytes(mode) for demand, mode in divided.begun)
    tokens = sum(demand.prefill_tokens(mode) for demand, mode in divided.begun)
    if divided.violations == 0:
        assert used <= link and tokens <= prefill
