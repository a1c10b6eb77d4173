"""Pages come as bytes; what was not sent so is refused."""

import gc
import weakref
from collections import deque
from typing import Any

import jax
import numpy as np
import pytest

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages import parcels
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.connection import See
from mell_jax.hosts.pages.parcels import Unpacking, head_of, parcel_of, send_chunks
from mell_jax.hosts.wire import Parcel, Sums
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration.messages import Chunk, Received
from mell_jax.scheduler.plan import Places
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.processes.wire import WireError

HERE = DeviceGroupId(2)
CHUNK = Chunk(
    request=RequestId(5),
    copy_id=CopyId(9),
    from_copy_id=CopyId(7),
    source=DeviceGroupId(1),
    mode=Mode.KV,
    first=0,
    end=32,
    is_last=False,
)
CHUNKS = (
    np.arange(6).astype(jax.numpy.bfloat16).reshape(2, 3),
    np.arange(6, 12).astype(jax.numpy.bfloat16).reshape(3, 2),
)


class _Group:
    """Has one device; see `DeviceGroup`."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


class Pipe:
    """What is given at one end is taken at the other."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.messages: deque[Any] = deque()

    def send(self, message: object) -> None:
        self.messages.append(message)

    def give(self, data: memoryview, *, see: See) -> None:
        see(data)
        self.data += data

    def receive(self, kind: type[Sums]) -> Sums:
        message = self.messages.popleft()
        assert isinstance(message, kind)
        return message

    def take(self, into: memoryview, *, see: See) -> None:
        into[:] = self.data[: len(into)]
        del self.data[: len(into)]
        see(into)


def parcel() -> wires.Parcel:
    """Two arrays of six numbers of two bytes."""
    places = Places(groups=np.zeros(2, np.int32), along=np.array([4, 7], np.int32))
    pages = PageTransfer(chunks=tuple(map(jax.numpy.asarray, CHUNKS)), places=places)
    return wires.Parcel(device=HERE, message=CHUNK, pages=pages)


def sent() -> tuple[Parcel, Pipe]:
    pipe, whole = Pipe(), parcel()
    assert whole.pages is not None
    send_chunks(whole.pages.chunks, to=pipe)
    return head_of(whole), pipe


def unpacking() -> Unpacking:
    """Of a host that has device group 2."""
    group: Any = _Group()
    return Unpacking(
        lambda device: group if device == HERE else None,
        buffers=Buffers(most_bytes=2**20),
    )


def head(**changes: Any) -> Parcel:
    """The head of `parcel`, with changes."""
    values = {name: getattr(head_of(parcel()), name) for name in Parcel.__slots__}
    return Parcel(**{**values, **changes})


@pytest.mark.parametrize("piece_bytes", [1, 5, 12, 2**23])
def test_pages_come_as_they_went_in_pieces_of_any_size(
    piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "PIECE_BYTES", piece_bytes)
    begun, pipe = sent()
    assert len(pipe.messages[0].values) == sum(-(-12 // piece_bytes) for _ in CHUNKS)
    got = parcel_of(begun, chunks=unpacking().chunks(begun, by=pipe))
    assert (got.device, got.message) == (HERE, CHUNK)
    assert got.pages is not None
    assert [np.asarray(chunk).tolist() for chunk in got.pages.chunks] == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]
    assert got.pages.chunks[0].dtype == jax.numpy.bfloat16
    assert got.pages.places.along.tolist() == [4, 7]
    assert not pipe.data and not pipe.messages


def test_a_parcel_without_pages_is_its_head() -> None:
    tokens = np.array([3, 4], np.int32)
    received = Received(
        request=RequestId(5), copy_id=CopyId(7), to_copy_id=CopyId(9), end=32
    )
    for whole in (
        wires.Parcel(device=HERE, message=CHUNK, tokens=tokens),
        wires.Parcel(device=HERE, message=received),
    ):
        begun = head_of(whole)
        assert begun.shapes == ()
        assert parcel_of(begun, chunks=()) == whole


def test_pages_for_a_device_that_is_gone_are_nowhere() -> None:
    begun, pipe = sent()
    elsewhere = head(device=DeviceGroupId(3))
    assert unpacking().chunks(elsewhere, by=pipe) == ()
    assert not pipe.data  # they were read: others may follow
    assert begun.device == HERE


@pytest.mark.parametrize("at", [0, 11, 12, 23])
def test_other_bits_than_were_sent_are_refused(at: int) -> None:
    begun, pipe = sent()
    pipe.data[at] ^= 4
    with pytest.raises(WireError, match="other bits"):
        unpacking().chunks(begun, by=pipe)


def test_too_few_sums_are_refused() -> None:
    begun, pipe = sent()
    pipe.messages[0] = Sums(values=pipe.messages[0].values[:1])
    with pytest.raises(WireError, match="other bits"):
        unpacking().chunks(begun, by=pipe)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "nothing"}, "no type of numbers 'nothing'"),
        ({"dtype": ""}, "no type of numbers ''|no numbers of type ''"),
        ({"dtype": "object"}, "no numbers of type 'object'"),
        ({"dtype": "S0"}, "no numbers of type 'S0'"),
        ({"shapes": ((2, -3),)}, r"the shape \(2, -3\)"),
        ({"shapes": ((2**40,),)}, "at most 17179869184 are allowed"),
    ],
)
def test_a_head_that_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WireError, match=why):
        unpacking().chunks(head(**changes), by=Pipe())


# Memory.


def test_a_buffer_is_lent_again_when_nobody_has_it() -> None:
    buffers = Buffers(most_bytes=2**20)
    first = buffers.lend(4096)
    where = first.ctypes.data
    assert where % 64 == 0
    assert buffers.lend(4096).ctypes.data != where
    del first
    gc.collect()
    assert buffers.free_bytes == 8192
    again = [buffers.lend(4096).ctypes.data for _ in range(1)]
    assert again[0] == where or buffers.free_bytes == 8192
    assert buffers.lend(0).size == 0


def test_a_buffer_that_an_array_is_made_of_is_not_lent_again() -> None:
    """Whatever is made of it: a device array, one of that, a view of a view."""
    buffers = Buffers(most_bytes=2**20)
    lent = buffers.lend(4096)
    lent[:] = 7
    device = jax.device_put(lent[:2048].view(np.float32).reshape(2, 256))
    view = lent[2048:].view(np.int32).reshape(2, 256)[1]
    before = np.asarray(device).copy()
    is_gone = weakref.ref(device)
    del lent
    for _ in range(3):
        buffers.lend(4096)[:] = 9
        gc.collect()
    assert np.array_equal(np.asarray(device), before)
    assert view.tolist() == [0x07070707] * 256
    del device, view
    gc.collect()
    assert is_gone() is None


def test_what_is_kept_for_later_is_bounded() -> None:
    buffers = Buffers(most_bytes=10_000)
    for size in (4096, 1024):
        lent = [buffers.lend(size) for _ in range(5)]
        del lent
        gc.collect()
        assert 0 < buffers.free_bytes <= 10_000
