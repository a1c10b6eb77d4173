"""Device groups that serve nothing wait here to be opened, the lowest id first."""

import heapq
from collections.abc import Iterable, Iterator

from mell_jax.scheduler.ids import DeviceGroupId, KindId
from mell_jax.scheduler.placement.kind import ONLY_KIND


class IdleDevices:
    """The idle device groups of each kind; it remembers the kind of all others, too."""

    def __init__(self, kinds: Iterable[KindId]) -> None:
        self._idle: set[DeviceGroupId] = set()
        self._kind_of: dict[DeviceGroupId, KindId] = {}
        # also ids that are not idle any more
        self._heaps: dict[KindId, list[DeviceGroupId]] = {kind: [] for kind in kinds}

    def __len__(self) -> int:
        return len(self._idle)

    def __iter__(self) -> Iterator[DeviceGroupId]:
        return iter(self._idle)

    def __contains__(self, device: DeviceGroupId) -> bool:
        return device in self._idle

    def kind_of(self, device: DeviceGroupId) -> KindId:
        """Returns the kind of a device group that is idle or was so once."""
        return self._kind_of[device]

    def next(self, kind: KindId = ONLY_KIND) -> DeviceGroupId | None:
        """Returns the one of lowest id, which would be used next."""
        heap = self._heaps.get(kind, [])
        while heap and not (heap[0] in self._idle and self._kind_of[heap[0]] == kind):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def add(self, device: DeviceGroupId, *, kind: KindId) -> None:
        """Enters a device group that may be opened.

        Raises:
          ValueError: nothing is known of its kind.
        """
        if kind not in self._heaps:
            raise ValueError(
                f"device {device} is of the unknown kind {kind!r}; known: "
                f"{sorted(self._heaps)}"
            )
        self._kind_of[device] = kind
        self._idle.add(device)
        heapq.heappush(self._heaps[kind], device)

    def drop(self, device: DeviceGroupId) -> None:
        """Takes one away; its entry in the heap is skipped later."""
        self._idle.remove(device)
