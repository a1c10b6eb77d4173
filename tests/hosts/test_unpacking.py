"""Pages come in pieces; what was not sent so is refused."""

import zlib
from typing import Any

import jax
import numpy as np
import pytest

from mell_jax.engine.hosts import wires
from mell_jax.hosts.host_links import Unpacking
from mell_jax.hosts.wire import Parcel, Piece
from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration.messages import Chunk, Received
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


class _Group:
    """Has one device; see `DeviceGroup`."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


class Inbox:
    """What comes out of an `Unpacking` of host 2."""

    def __init__(self) -> None:
        self.came: list[wires.Parcel] = []
        self.measured: list[LinkMeasured] = []
        self.now_s = 10.0
        group: Any = _Group()
        self.take = Unpacking(
            lambda device: group if device == HERE else None,
            post=self.came.append,  # type: ignore[arg-type]
            measured=self.measured.append,
            clock=lambda: self.now_s,
        ).take


def head(**changes: Any) -> Parcel:
    """Two arrays of six numbers of two bytes are to come."""
    values: dict[str, Any] = {
        "device": HERE,
        "message": CHUNK,
        "tokens": None,
        "has_pages": True,
        "groups": np.array([0, 0], np.int32),
        "along": np.array([4, 7], np.int32),
        "shapes": ((2, 3), (3, 2)),
        "dtype": "bfloat16",
    }
    return Parcel(**{**values, **changes})


def piece(data: bytes, *, crc: int | None = None) -> Piece:
    return Piece(data=data, crc=zlib.crc32(data) if crc is None else crc)


def test_pages_are_put_together_from_pieces_of_any_size() -> None:
    inbox = Inbox()
    data = np.arange(12).astype(jax.numpy.bfloat16).tobytes()
    inbox.take(head())
    for part in (data[:1], data[1:20], b"", data[20:]):
        assert not inbox.came
        inbox.take(piece(part))
    (parcel,) = inbox.came
    assert (parcel.device, parcel.message) == (HERE, CHUNK)
    assert parcel.pages is not None
    assert [np.asarray(chunk).tolist() for chunk in parcel.pages.chunks] == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]
    assert parcel.pages.places.along.tolist() == [4, 7]
    assert not inbox.measured  # 24 bytes tell nothing of a link


def test_what_has_no_pages_comes_at_once() -> None:
    inbox = Inbox()
    tokens = np.array([3, 4], np.int32)
    inbox.take(head(has_pages=False, shapes=(), dtype="", tokens=tokens))
    received = Received(
        request=RequestId(5), copy_id=CopyId(7), to_copy_id=CopyId(9), end=32
    )
    inbox.take(head(message=received, has_pages=False, shapes=(), dtype=""))
    first, second = inbox.came
    assert first.tokens is tokens
    assert first.pages is None
    assert second.message == received


def test_pages_for_a_device_that_is_gone_are_nowhere() -> None:
    inbox = Inbox()
    inbox.take(head(device=DeviceGroupId(3)))
    inbox.take(piece(bytes(24)))
    assert inbox.came[0].pages is not None
    assert inbox.came[0].pages.chunks == ()


def test_a_link_is_measured_by_what_takes_its_time() -> None:
    inbox = Inbox()
    inbox.take(head(shapes=((2**20,),)))
    inbox.now_s += 0.5
    inbox.take(piece(bytes(2**21)))
    assert inbox.measured == [
        LinkMeasured(source=DeviceGroupId(1), device=HERE, nbytes=2**21, seconds=0.5)
    ]


def test_other_bits_than_were_sent_are_refused() -> None:
    inbox = Inbox()
    inbox.take(head())
    with pytest.raises(WireError, match="other bits"):
        inbox.take(piece(bytes(24), crc=1))
    assert not inbox.came


def test_more_bytes_than_are_due_are_refused() -> None:
    inbox = Inbox()
    inbox.take(head())
    with pytest.raises(WireError, match="of no parcel"):
        inbox.take(piece(bytes(25)))


def test_a_piece_that_nobody_waits_for_is_refused() -> None:
    with pytest.raises(WireError, match="of no parcel"):
        Inbox().take(piece(b"x"))


def test_a_parcel_within_another_is_refused() -> None:
    inbox = Inbox()
    inbox.take(head())
    inbox.take(piece(bytes(4)))
    with pytest.raises(WireError, match="before the one before has come"):
        inbox.take(head())


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
        Inbox().take(head(**changes))
