"""Subscribers who follow the events know what the caches hold."""

import msgspec

from mell_jax.engine.admin import ResetPrefixCache
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.kv_events.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEventBatch,
)
from mell_jax.engine.kv_events.news import KvEvents, block_hash, events_of
from mell_jax.scheduler.ids import PageKey
from mell_jax.scheduler.prefix_cache import Removed, Stored
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.engine.fleet.versioned import give, greedy
from tests.toy import PAGE_TOKENS, Transcript, run, submit


class Subscriber:
    """Keeps the blocks of every rank, as a router does."""

    def __init__(self) -> None:
        self.blocks: dict[int, dict[int, tuple[int, ...]]] = {}
        self.parents: dict[int, int | None] = {}
        self.is_closed = False

    def publish(self, batch: KVEventBatch) -> None:
        data = msgspec.msgpack.encode(batch)
        batch = msgspec.msgpack.decode(data, type=KVEventBatch)
        assert batch.data_parallel_rank is not None
        mine = self.blocks.setdefault(batch.data_parallel_rank, {})
        for event in batch.events:
            match event:
                case BlockStored(block_hashes=[block]):
                    assert event.block_size == len(event.token_ids) == PAGE_TOKENS
                    mine[block] = tuple(event.token_ids)
                    self.parents[block] = event.parent_block_hash
                case BlockRemoved():
                    for block in event.block_hashes:
                        mine.pop(block, None)
                case AllBlocksCleared():
                    mine.clear()

    def close(self) -> None:
        self.is_closed = True


def watched(**options) -> tuple[Fleet, Subscriber]:
    subscriber = Subscriber()
    events = KvEvents(subscriber, clock=lambda: 1.0)
    return toy_fleet(kv_events=events, **options), subscriber


def held(fleet: Fleet) -> dict[int, set[int]]:
    return {
        int(device): {
            block_hash(key) for key in instance.inner.batcher.cache.known_keys
        }
        for device, instance in fleet.instances.items()
    }


def follow(fleet: Fleet, prompts: list[list[int]], *, count: int = 20) -> None:
    for handle, prompt in enumerate(prompts):
        submit(fleet, prompt, handle=handle, params=greedy(count))
    run(fleet, transcript=Transcript())
    fleet.step()


def told(subscriber: Subscriber) -> dict[int, set[int]]:
    return {rank: set(blocks) for rank, blocks in subscriber.blocks.items() if blocks}


def test_a_subscriber_has_what_the_caches_have() -> None:
    fleet, subscriber = watched(devices=2, num_pages=17)
    follow(fleet, [[n % 40 + 1] * (20 + n) for n in range(12)])
    assert told(subscriber) == {k: v for k, v in held(fleet).items() if v}
    assert sum(map(len, told(subscriber).values())) > 5


def test_blocks_have_their_tokens_and_come_after_their_parents() -> None:
    fleet, subscriber = watched(devices=1)
    prompt = [*range(1, PAGE_TOKENS + 1), *range(2, PAGE_TOKENS + 2), 3]
    follow(fleet, [prompt], count=1)
    (blocks,) = subscriber.blocks.values()
    first, second = blocks
    assert blocks[first] == tuple(prompt[:PAGE_TOKENS])
    assert blocks[second] == tuple(prompt[PAGE_TOKENS : 2 * PAGE_TOKENS])
    assert (subscriber.parents[first], subscriber.parents[second]) == (None, first)


def test_nothing_is_left_after_a_reset() -> None:
    fleet, subscriber = watched(devices=1)
    follow(fleet, [[7] * 40])
    assert told(subscriber)
    fleet.administer(ResetPrefixCache())
    fleet.step()
    assert not told(subscriber)


def test_pages_of_older_weights_are_told_of_no_more() -> None:
    fleet, subscriber = watched(devices=1)
    follow(fleet, [[7] * 40])
    give(fleet, factor=2, scale=1, then="keep")
    fleet.step()
    assert not told(subscriber)
    follow(fleet, [[9] * 40])
    assert told(subscriber)


def test_a_fleet_that_ends_ends_its_publisher() -> None:
    fleet, subscriber = watched(devices=1)
    fleet.close()
    assert subscriber.is_closed


def test_removals_in_a_row_are_one_event() -> None:
    a, b = PageKey(bytes(15) + b"a"), PageKey(b"b" + bytes(15))
    stored = Stored(key=a, parent=b, tokens=(1, 2), group=0)
    first, second, third = events_of(
        [Removed(key=a), Removed(key=b), stored, Removed(key=a)]
    )
    assert isinstance(first, BlockRemoved) and len(first.block_hashes) == 2
    assert isinstance(second, BlockStored)
    assert second.parent_block_hash == first.block_hashes[1] == block_hash(b)
    assert isinstance(third, BlockRemoved)
