"""Messages of a fleet as bytes: there and back, and whatever may come instead."""

import struct
from dataclasses import fields, is_dataclass
from typing import Any, NewType, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.engine.frames import Finished, FinishReason, Handle, StepFrame, Submit
from mell_jax.engine.hosts.load import GroupLoad, HostLoad
from mell_jax.engine.params import SamplingParams
from mell_jax.hosts import wire
from mell_jax.hosts.loads import NO_LOAD
from mell_jax.hosts.wire import (
    INNER,
    TYPES,
    Addresses,
    Challenge,
    Hello,
    HostCodec,
    HostFrame,
    OpeningParcel,
    Parcel,
    Proof,
    Served,
    Welcome,
)
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, FrontId, RequestId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.processes.wire import WireError
from tests.toy import toy_info

CODEC = HostCodec()
CHUNK = messages.Chunk(
    request=RequestId(5),
    copy_id=CopyId(9),
    from_copy_id=CopyId(7),
    source=DeviceGroupId(1),
    mode=Mode.KV,
    first=0,
    end=32,
    is_last=False,
)
SERVED = (Served(info=toy_info(), spec=ModelSpec(capacity_pages=3)),)
WITH_VALUES: tuple[Any, ...] = (
    Hello(role="host", name="left", address="10.0.0.7:7000", models=SERVED),
    Challenge(nonce=b"\x00\xff"),
    Proof(nonce=b"n", digest=b"d"),
    Welcome(front=FrontId(3), models=SERVED),
    Addresses(by_name={"left": "10.0.0.7:7000"}),
    HostFrame(
        frame=StepFrame(
            handles=np.array([5], np.int64),
            tokens=np.array([17], np.int32),
            finished=(Finished(handle=Handle(5), reason=FinishReason.LENGTH),),
        ),
        copies=np.array([9], np.int64),
        starts=np.array([4], np.int32),
        ends=((CopyId(9), 5),),
    ),
    HostLoad(
        load=NO_LOAD,
        groups=(
            GroupLoad(device=DeviceGroupId(3), running=2, waiting=1, cached_pages=7),
        ),
        sent_bytes=4096,
        stages=2,
    ),
    OpeningParcel(
        device=DeviceGroupId(2),
        since=None,
        pages=3,
        message=messages.Commit(
            request=RequestId(5), copy_id=CopyId(9), since=6, tail=(17, 18)
        ),
        submit=Submit(
            handle=Handle(5),
            prompt=np.array([1, 2, 3], np.int32),
            params=SamplingParams(temperature=0.5, logprobs=2),
        ),
        seed=2**62,
        tokens=np.array([1, 2, 3, 17], np.int32),
    ),
    Parcel(
        device=DeviceGroupId(2),
        message=CHUNK,
        tokens=None,
        has_pages=True,
        groups=np.array([0], np.int32),
        along=np.array([1], np.int32),
        shapes=((2, 16, 4),),
        dtype="bfloat16",
    ),
)
_SIMPLE = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(),
    type(None): st.none(),
}
PLAIN = [kind for kind in TYPES if kind not in {type(value) for value in WITH_VALUES}]


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a scheduler's message, whose numbers all fit into 64 bits."""
    parts = [part for part in get_args(kind) if part is not ...]
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if isinstance(kind, NewType):
        return values_of(kind.__supertype__)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        own = {field.name: values_of(hints[field.name]) for field in fields(kind)}
        return st.builds(kind, **own)
    if get_origin(kind) in (tuple, frozenset):
        return st.lists(values_of(parts[0]), max_size=3).map(get_origin(kind))
    if parts:
        return st.one_of([values_of(part) for part in parts])
    return st.sampled_from(kind)


def read(data: bytes) -> list[Any]:
    return CODEC.reader().feed(data)


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_a_message_of_the_scheduler_comes_as_it_went(
    kind: type[Any], data: st.DataObject
) -> None:
    message = data.draw(values_of(kind))
    (back,) = read(CODEC.encode(message))
    assert type(back) is kind
    assert back == message


@pytest.mark.parametrize("message", WITH_VALUES, ids=lambda m: type(m).__name__)
def test_a_message_with_arrays_comes_as_it_went(message: Any) -> None:
    written = CODEC.encode(message)
    (back,) = read(written)
    assert type(back) is type(message)
    assert CODEC.encode(back) == written
    assert repr(back) == repr(message)


def test_messages_come_in_order_however_they_are_cut() -> None:
    data = b"".join(map(CODEC.encode, WITH_VALUES))
    reader = CODEC.reader()
    came = [m for at in range(0, len(data), 7) for m in reader.feed(data[at : at + 7])]
    assert list(map(type, came)) == list(map(type, WITH_VALUES))


def test_all_that_may_be_said_has_a_kind_of_its_own() -> None:
    assert len(set(TYPES)) == len(TYPES)
    assert {Hello, words.Join, words.Relayed, words.Beat} <= set(TYPES)
    assert not {words.Opening, words.Row} & set(TYPES)  # go as parcels and frames


def check_hostile(data: bytes) -> None:
    """Bytes are messages or a `WireError`, and nothing else."""
    try:
        came = read(data)
    except WireError:
        return
    assert {type(message) for message in came} <= set(TYPES)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    check_hostile(data)


@given(kind=st.integers(0, 255), body=st.binary(max_size=200))
def test_random_bodies_are_refused(kind: int, body: bytes) -> None:
    check_hostile(struct.pack("<IB", len(body), kind) + body)


@given(
    kind=st.integers(0, len(TYPES) - 1),
    body=st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
        lambda part: (
            st.lists(part, max_size=4)
            | st.dictionaries(
                st.sampled_from(["device", "message", "models", "x"]), part
            )
        ),
        max_leaves=12,
    ),
)
def test_well_formed_bodies_of_something_else_are_refused(
    kind: int, body: object
) -> None:
    data = msgspec.msgpack.encode(body)
    check_hostile(struct.pack("<IB", len(data), kind) + data)


@given(
    message=st.sampled_from(WITH_VALUES),
    at=st.integers(0, 2**16),
    flip=st.integers(1, 255),
    cut=st.integers(0, 40),
)
def test_messages_with_other_bits_are_refused(
    message: Any, at: int, flip: int, cut: int
) -> None:
    data = bytearray(CODEC.encode(message))
    data[at % len(data)] ^= flip
    check_hostile(bytes(data[: len(data) - cut]))


def test_no_bit_of_a_message_that_carries_another_raises_otherwise() -> None:
    """Also what is read again while an error still holds on to its bytes."""
    for message in (m for m in WITH_VALUES if isinstance(m, Parcel)):
        data = CODEC.encode(message)
        for bit in range(8 * 5, 8 * len(data)):
            other = bytearray(data)
            other[bit // 8] ^= 1 << bit % 8
            check_hostile(bytes(other))


def test_a_message_that_another_may_not_carry_is_refused() -> None:
    told = words.Told(
        device=DeviceGroupId(1),
        message=messages.Ready(request=RequestId(5), copy_id=CopyId(9)),
    )
    body = CODEC.encode(told)[5:]
    kind = INNER.index(messages.Ready)
    at = body.index(bytes([kind, 0x82]))  # its kind, and a map of two
    other = bytes([INNER.index(messages.Start)])
    with pytest.raises(WireError, match="a Told carries no message of kind 0"):
        CODEC.decode(
            TYPES.index(words.Told), memoryview(body[:at] + other + body[at + 1 :])
        )


def test_arrays_of_impossible_shapes_are_refused() -> None:
    kind = TYPES.index(HostFrame)
    for shape in ((-1,), (2**64 - 1, 2), (3,), ("a",)):
        body = {"frame": {}, "copies": (shape, b"12345678"), "starts": 1, "ends": ()}
        with pytest.raises(WireError):
            CODEC.decode(kind, memoryview(msgspec.msgpack.encode(body)))


def test_lists_in_lists_are_refused() -> None:
    deep = b"\x81\xa1x" + b"\x91" * 200_000 + b"\xc0"  # a field that nobody knows
    with pytest.raises(WireError):
        CODEC.decode(TYPES.index(words.Beat), memoryview(deep))


def test_what_has_no_kind_is_refused() -> None:
    with pytest.raises(WireError, match="no message of kind 200"):
        CODEC.decode(200, memoryview(b""))


def test_what_is_too_large_is_refused_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "MAX_BYTES", 64)
    with pytest.raises(WireError, match=r"a Challenge of \d+ bytes exceeds the 64"):
        CODEC.encode(Challenge(nonce=bytes(65)))
    with pytest.raises(WireError, match="a message of 65 bytes; at most 64"):
        CODEC.reader(max_bytes=64).feed(struct.pack("<IB", 65, 0))


def test_an_epoch_that_is_no_number_is_refused() -> None:
    written = CODEC.encode(words.Reached(epoch=Epoch(3)))
    with pytest.raises(WireError, match="Expected `int`"):
        read(written.replace(b"\x03", b"\xc0"))
