"""To the last byte, token and page: what is just enough is enough."""

import numpy as np
import pytest

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId, Serial
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.scheduler.transfer import Capacities, LinkId, Mode, MoveDemand

TARGET, LINK = DeviceGroupId(1), LinkId("a-b")


def demand(move: int, *, tokens: int, is_urgent: bool = False) -> MoveDemand:
    """A move of 8 bytes a token, 4 if tokens are sent."""
    decided = plan.Move(
        move=MoveId(move),
        request=RequestId(move),
        source=DeviceGroupId(0),
        target=TARGET,
        pages=1,
        is_urgent=is_urgent,
    )
    return MoveDemand(move=decided, links=(LINK,), tokens=tokens, bytes_per_token=8.0)


def test_a_move_needs_so_many_bytes_and_tokens() -> None:
    asked = demand(0, tokens=10)
    assert asked.link_bytes(Mode.KV) == 80.0
    assert asked.link_bytes(Mode.TOKENS) == 40.0
    assert (asked.prefill_tokens(Mode.KV), asked.prefill_tokens(Mode.TOKENS)) == (1, 10)


@pytest.mark.parametrize(
    ("link_bytes", "prefill", "begun"),
    [
        (240.0, 3.0, 3),  # pages of three: 240 bytes, and a step of each
        (239.0, 3.0, 2),
        (240.0, 2.0, 2),
    ],
)
def test_moves_begin_until_nothing_is_left(
    link_bytes: float, prefill: float, begun: int
) -> None:
    capacities = Capacities(
        link_bytes={LINK: link_bytes}, prefill_tokens={TARGET: prefill}
    )
    divided = capacities.divide([demand(n, tokens=10) for n in range(4)])
    assert [mode for _, mode in divided.begun] == [Mode.KV] * begun
    assert len(divided.deferred) == 4 - begun
    assert divided.violations == 0


def test_what_is_overdrawn_is_missing_in_the_next_epoch() -> None:
    capacities = Capacities(link_bytes={LINK: 100.0}, prefill_tokens={TARGET: 2.0})
    urgent = capacities.divide([demand(0, tokens=20, is_urgent=True)])
    assert urgent.violations == 1  # 160 of 100 bytes
    capacities.renew()
    # 60 bytes are owed, 40 are left: five tokens, and one more has to wait.
    divided = capacities.divide([demand(1, tokens=4), demand(2, tokens=1)])
    assert {int(asked.move.move) for asked, _ in divided.begun} == {1, 2}
    assert not capacities.divide([demand(3, tokens=1)]).begun
    capacities.renew()
    assert len(capacities.divide([demand(4, tokens=12)]).begun) == 1


def test_an_epoch_of_the_queue_gives_its_links_room_again() -> None:
    queue = MoveQueue(Capacities(link_bytes={LINK: 80.0}, prefill_tokens={TARGET: 1.0}))
    for number in (1, 2):
        queue.ask(demand(number, tokens=10).move)
    first = queue.divide(lambda move: demand(int(move.move), tokens=10))
    assert (len(first.begun), len(first.deferred)) == (1, 1)
    queue.renew()
    second = queue.divide(lambda move: demand(int(move.move), tokens=10))
    assert [asked.is_late for asked, _ in second.begun] == [True]
    assert (second.deferred, second.violations) == ((), 0)


def test_a_reservation_has_the_tokens_that_it_prefills() -> None:
    batcher = Batcher(
        PrefixCache(PagePool(16)),
        limits=BatchLimits(max_rows=2, token_budget=32, max_tokens=64),
        spec=CacheSpec(page_tokens=8),
    )
    one = Serial(1)
    sequence = Sequence(
        serial=one,
        tokens=np.arange(4, dtype=np.int32),
        prompt=4,
        limit=60,
        salt=b"",
        reads_cache=True,
    )
    batcher.reservations.reserve(sequence, pages=2)
    batcher.reservations.prefill(one, np.array([50, 51, 52], np.int32), first=4)
    computed = batcher.plan()
    assert computed is not None
    assert computed.token_ids.tolist() == [0, 1, 2, 3, 50, 51, 52]
    assert not computed.samples.any()
    assert not batcher.commit(computed, np.array([9], np.int32)).any()
    tokens = batcher.reservations.begin(
        one, computed=7, since=7, tail=np.array([53], np.int32), pages=2
    )
    assert tokens.tolist() == [0, 1, 2, 3, 50, 51, 52, 53]
