"""News of prefix caches become events, once a round, for a publisher.

Every device group is a rank of its own. One whose instance is gone, or is another, or
has other weights, has lost all that it had.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, final

from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.kv_events.events import (
    MEDIUM,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Event,
    KVEventBatch,
)
from mell_jax.scheduler.ids import DeviceGroupId, PageKey
from mell_jax.scheduler.prefix_cache import CacheNews, Stored

_HASH_BYTES = 8


class _Told(NamedTuple):
    """This is for what events hold: an instance, and pages of these weights."""

    inner: int
    generation: int


class Publisher(Protocol):
    """A publisher takes batches on the engine's thread, and never waits."""

    def publish(self, batch: KVEventBatch) -> None: ...

    def close(self) -> None: ...


@final
class KvEvents:
    """This tells a publisher what instances' caches hold.

    Args:
      clock: seconds since 1970.
    """

    def __init__(self, publisher: Publisher, *, clock: Callable[[], float]) -> None:
        self._publisher = publisher
        self._clock = clock
        self._told: dict[DeviceGroupId, _Told] = {}

    def tell(self, instances: Mapping[DeviceGroupId, FleetInstance]) -> None:
        """Tells what is new since the last time."""
        for device, before in list(self._told.items()):
            if _told_of(instances.get(device)) != before:
                del self._told[device]
                self._publish(device, [AllBlocksCleared()])
        for device, instance in instances.items():
            cache = instance.inner.batcher.cache
            if cache.news:
                told = _told_of(instance)
                assert told is not None
                self._told[device] = told
                self._publish(device, events_of(cache.news))
                cache.news.clear()

    def close(self) -> None:
        """Ends the publisher."""
        self._publisher.close()

    def _publish(self, device: DeviceGroupId, events: list[Event]) -> None:
        self._publisher.publish(
            KVEventBatch(ts=self._clock(), events=events, data_parallel_rank=device)
        )


def _told_of(instance: FleetInstance | None) -> _Told | None:
    if instance is None:
        return None
    inner = instance.inner
    return _Told(inner=id(inner), generation=inner.sequences.generation)


def events_of(news: Sequence[CacheNews]) -> list[Event]:
    """Returns news as events, in order; removals in a row are one."""
    events: list[Event] = []
    for item in news:
        if isinstance(item, Stored):
            events.append(_stored(item))
        elif events and isinstance(events[-1], BlockRemoved):
            events[-1].block_hashes.append(block_hash(item.key))
        else:
            hashes = [block_hash(item.key)]
            events.append(BlockRemoved(block_hashes=hashes, medium=MEDIUM))
    return events


def _stored(item: Stored) -> BlockStored:
    parent = item.parent
    return BlockStored(
        block_hashes=[block_hash(item.key)],
        parent_block_hash=block_hash(parent) if parent is not None else None,
        token_ids=list(item.tokens),
        block_size=len(item.tokens),
        lora_id=None,
        medium=MEDIUM,
        lora_name=None,
        group_idx=item.group or None,
    )


def block_hash(key: PageKey) -> int:
    """Returns a page's key as a number of 64 bits; groups of layers differ in it."""
    first = int.from_bytes(key[:_HASH_BYTES], "big")
    return first ^ int.from_bytes(key[2 * _HASH_BYTES :], "little")
