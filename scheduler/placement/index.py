"""The index finds instances by free room: a bucket per page, a bit per filled bucket.

    mask 0b1001    buckets  0: {d4, d1}   3: {d2}
    best(need=1) -> d2       the least room that is enough
    worst()      -> d2       the most room

A change costs O(1) dictionary operations and one on an integer of as many bits
as an instance has pages; nothing is ever scanned. Within a bucket the instance that has
been there longest comes first, so the same changes give the same answers.
"""

from collections.abc import Iterator

from mell_jax.scheduler.ids import DeviceGroupId


class FreeIndex:
    """The index files device ids by their free pages, from `lowest` to `highest`."""

    def __init__(self, highest: int, *, lowest: int = 0) -> None:
        self._lowest = lowest
        size = highest - lowest + 1
        self._buckets: list[dict[DeviceGroupId, None] | None] = [None] * size
        self._mask = 0

    def add(self, device: DeviceGroupId, *, room: int) -> None:
        at = room - self._lowest
        bucket = self._buckets[at]
        if not bucket:
            if bucket is None:
                bucket = self._buckets[at] = {}
            self._mask |= 1 << at
        bucket[device] = None

    def discard(self, device: DeviceGroupId, *, room: int) -> None:
        at = room - self._lowest
        bucket = self._buckets[at]
        assert bucket is not None, f"device {device} is not among those with {room}"
        del bucket[device]
        if not bucket:
            self._mask ^= 1 << at

    def best(
        self, need: int, *, skip: DeviceGroupId | None = None
    ) -> DeviceGroupId | None:
        """Returns the device with the least room >= `need`, but not `skip`."""
        for device in self.ascending(need):
            if device != skip:
                return device
        return None

    def worst(self, *, skip: DeviceGroupId | None = None) -> DeviceGroupId | None:
        """Returns the device with the most room, but not `skip`."""
        for device in self.descending():
            if device != skip:
                return device
        return None

    def ascending(self, need: int) -> Iterator[DeviceGroupId]:
        """Yields devices with room >= `need`, least first; stop before a change."""
        at = max(need - self._lowest, 0)
        mask = self._mask >> at
        while mask:
            low = (mask & -mask).bit_length()
            bucket = self._buckets[at + low - 1]
            if bucket:
                yield from bucket
            mask >>= low
            at += low

    def descending(self) -> Iterator[DeviceGroupId]:
        """Yields devices, most room first; stop before a change."""
        mask = self._mask
        while mask:
            top = mask.bit_length() - 1
            bucket = self._buckets[top]
            if bucket:
                yield from bucket
            mask ^= 1 << top
