"""The index answers as sorting all instances by their room would."""

import numpy as np
import pytest

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.index import FreeIndex

LOWEST, HIGHEST = -3, 9


def test_the_example_of_the_index() -> None:
    index = FreeIndex(3)
    for device, room in ((4, 0), (1, 0), (2, 3)):
        index.add(DeviceGroupId(device), room=room)
    assert (index.best(1), index.worst()) == (2, 2)
    assert list(index.ascending(0)) == [4, 1, 2]
    assert list(index.descending()) == [2, 4, 1]
    assert index.best(0, skip=DeviceGroupId(4)) == 1
    assert index.worst(skip=DeviceGroupId(2)) == 4
    index.discard(DeviceGroupId(2), room=3)
    assert (index.best(1), index.worst()) == (None, 4)


@pytest.mark.parametrize("seed", range(20))
def test_every_order_is_that_of_the_rooms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = FreeIndex(HIGHEST, lowest=LOWEST)
    rooms: dict[DeviceGroupId, int] = {}  # oldest in their room first
    for _ in range(80):
        device = DeviceGroupId(int(rng.integers(8)))
        if device in rooms:
            index.discard(device, room=rooms.pop(device))
        else:
            rooms[device] = int(rng.integers(LOWEST, HIGHEST + 1))
            index.add(device, room=rooms[device])
        for need in range(LOWEST - 2, HIGHEST + 2):
            enough = [d for d in rooms if rooms[d] >= need]
            enough.sort(key=lambda d: rooms[d])
            assert list(index.ascending(need)) == enough
            assert index.best(need) == next(iter(enough), None)
        most = sorted(rooms, key=lambda d: -rooms[d])
        assert list(index.descending()) == most
        for skip in most[:2]:
            left = [d for d in most if d != skip]
            assert index.worst(skip=skip) == next(iter(left), None)
