"""Controller, hosts and front ends tell each other these messages, written as bytes.

A message is written as in `serving.processes.wire`: length, kind, msgpack of the type's
fields, checked against their annotations. Of one that carries another message, such as
`Told`, both are written, with a kind each; nothing that arrives can name a type.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, final, get_args, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import EngineInfo, StepFrame, Submit
from mell_jax.engine.hosts.load import HostLoad
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.view import Overview
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, FrontId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.serving.processes.wire import (
    UNREADABLE,
    MessageReader,
    WireError,
    restore,
    simplify,
    with_head,
)

MAX_BYTES = 2**28  # prompt log probabilities of a step
MAX_PARCEL_BYTES = 2**34
INNER: tuple[type[Any], ...] = get_args(messages.Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A host can serve this model, and an instance of it holds so much."""

    info: EngineInfo
    spec: ModelSpec
    fingerprint: str = ""  # of its files


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of whoever connects says who that is."""

    role: str  # "host", "front" or "peer"
    name: str
    address: str = ""  # of a host: where it listens
    epoch: Epoch | None = None  # of the host that is meant; of a peer: its own
    front: FrontId | None = None
    models: tuple[Served, ...] = ()  # of a host


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Whoever listens asks for a proof that the other side knows the secret."""

    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """This is the proof, of both sides' nonces; `nonce` is that of who connects."""

    nonce: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """A front end learns what the fleet serves, and its own number."""

    front: FrontId
    models: tuple[Served, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwelcome:
    """A host is not let in, and hangs up."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Hosts are to be reached there, by name."""

    by_name: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFrame:
    """A step's frame at a host, cut for a front end; see `engine.hosts.wires`."""

    frame: StepFrame
    copies: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int32]
    ends: tuple[tuple[CopyId, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningParcel:
    """An opening, with the request and those of its tokens that are known."""

    device: DeviceGroupId
    since: CopyId | None
    pages: int
    message: words.Opened
    submit: Submit
    seed: int
    tokens: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Pages are to be pulled, as `jax.experimental.transfer` does."""

    number: int  # nobody else can guess it
    address: str
    shards: int  # devices that each array is on
    sums: tuple[int, ...]  # of pages; none: nobody looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message between device groups of two hosts.

    With pages it goes over a connection for these. They follow it: arrays of `dtype`,
    of these `shapes`, one after the other, and then `Sums`. Or there is an `offer`, by
    which they are to be pulled. `Arrived` answers.
    """

    device: DeviceGroupId
    message: messages.Chunk | messages.Received
    tokens: npt.NDArray[np.int32] | None
    has_pages: bool  # or else tokens, or nothing
    groups: npt.NDArray[np.int32]  # of the pages' places
    along: npt.NDArray[np.int32]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    offer: Offer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The latest parcel's pages have these checksums, piece by piece."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """The latest parcel has come, with all of its pages as they were sent, or not."""

    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """This is said first by who takes pages in: how they may come, but for bytes."""

    can_pull: bool


TYPES: tuple[type[Any], ...] = (
    Hello,
    Challenge,
    Proof,
    Welcome,
    Unwelcome,
    Addresses,
    HostFrame,
    HostLoad,
    Overview,
    OpeningParcel,
    Parcel,
    Sums,
    Arrived,
    Ways,
    *dict.fromkeys(
        kind
        for union in (
            words.FromHost,
            words.ToHost,
            words.FromFront,
            words.ToFront,
            words.FrontToHost,
            words.HostToFront,
        )
        for kind in get_args(union)
        if kind not in (words.Opening, words.Row)  # go as parcels and frames
    ),
)


@final
class HostCodec:
    """Turns messages into bytes and back.

    The body of one that carries another is the outer one without it, the kind of the
    inner one, and that.
    """

    def __init__(self) -> None:
        self._kinds = {kind: index for index, kind in enumerate(TYPES)}
        self._inner_kinds = {kind: index for index, kind in enumerate(INNER)}
        self._bare = {kind: _bare(kind) for kind in TYPES if _carries(kind)}
        self._may_carry = {
            kind: {self._inner_kinds[inner] for inner in _inner_types(kind)}
            for kind in self._bare
        }
        self._encoder = msgspec.msgpack.Encoder(enc_hook=simplify)
        self._decoders = [_decoder(self._shape(kind)) for kind in TYPES]
        self._inner_decoders = [_decoder(kind) for kind in INNER]

    def encode(self, message: Any) -> bytes:
        """Returns the message with its head.

        Raises:
          WireError: it is larger than the other side would take.
        """
        kind = type(message)
        value: object = message
        if kind in self._bare:
            inner = message.message
            value = (_stripped(message), self._inner_kinds[type(inner)], inner)
        body = self._encoder.encode(value)
        if not (len(body) <= MAX_BYTES):
            raise WireError(
                f"a {kind.__name__} of {len(body)} bytes exceeds the {MAX_BYTES} that "
                "a message may have"
            )
        return with_head(body, kind=self._kinds[kind])

    def decode(self, kind: int, body: memoryview) -> Any:
        """Returns the message of a body.

        Raises:
          WireError: no such kind, or no such message.
        """
        if not (kind < len(TYPES)):
            raise WireError(f"there is no message of kind {kind}")
        try:
            if TYPES[kind] not in self._bare:
                return self._decoders[kind].decode(body)
            # A copy, for what is raw would keep hold of `body` beyond an error.
            bare, inner_kind, raw = self._decoders[kind].decode(bytes(body))
            if inner_kind not in self._may_carry[TYPES[kind]]:
                raise WireError(
                    f"a {TYPES[kind].__name__} carries no message of kind {inner_kind}"
                )
            inner = self._inner_decoders[inner_kind].decode(raw)
            return TYPES[kind](**_fields(bare), message=inner)
        except UNREADABLE as error:
            raise WireError(f"a message cannot be read: {error}") from error

    def reader(self, *, max_bytes: int = MAX_BYTES) -> MessageReader:
        """Returns what puts messages together from pieces of a stream."""
        return MessageReader(self, max_bytes=max_bytes)

    def _shape(self, kind: type[Any]) -> Any:
        """Returns the type of a body."""
        if kind in self._bare:
            return tuple[self._bare[kind], int, msgspec.Raw]  # type: ignore[name-defined]
        return kind


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=restore)


def _carries(kind: type[Any]) -> bool:
    """Tells whether a type has another message in it."""
    return any(field.name == "message" for field in dataclasses.fields(kind))


def _inner_types(kind: type[Any]) -> tuple[type[Any], ...]:
    """Returns the types of messages that a type can have in it."""
    return get_args(get_type_hints(kind)["message"])


def _bare(kind: type[Any]) -> type[Any]:
    """Returns a type with the fields of another one but for its message."""
    hints = get_type_hints(kind)
    del hints["message"]
    return dataclasses.make_dataclass(
        f"Bare{kind.__name__}", list(hints.items()), frozen=True, kw_only=True
    )


def _fields(message: Any) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}


def _stripped(message: Any) -> dict[str, Any]:
    values = _fields(message)
    del values["message"]
    return values
