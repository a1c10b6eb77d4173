"""Engine and front ends tell each other these messages, written as bytes.

    4 bytes, little endian   length of the body
    1 byte                   kind: index of the type in its direction's tuple
    body                     msgpack of the type's fields, arrays as (shape, raw bytes)

Bodies are checked against the types' annotations while they are read, and by the types
themselves (`__post_init__`); nothing that arrives can name a type or run code.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, get_args, get_origin

import msgspec
import numpy as np

from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    StepFrame,
    Submit,
)
from mell_jax.frontend.share import NOTHING_HELD, Counted, Held
from mell_jax.serving.config import ServerConfig

HEAD = struct.Struct("<IB")
ROUTE_BITS = 40
"""A handle is a front end's number, shifted so far, and a number of its own."""


UNREADABLE = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    OverflowError,  # an array's shape
    RecursionError,  # lists in lists, where they are passed over
)
"""Reading bytes of whoever it may be raises one of these."""


class WireError(ValueError):
    """The other side sent bytes that it should not have sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A served model has a name and a place where its tokenizer lies."""

    name: str
    path: str
    tokenizer_dir: Path | None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """A welcome is the first message to a front end: all that it needs to serve."""

    number: int  # never used twice by a server
    is_alone: bool  # no other front end shares the port
    verbosity: int  # of absl's logging
    config: ServerConfig
    infos: tuple[EngineInfo, ...]
    models: tuple[ModelPlace, ...]
    load: EngineLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMessage:
    """An engine step is told with the rows of this front end's sequences alone."""

    frame: StepFrame
    load: EngineLoad  # without its fleet and its phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A pulse is sent regularly; a front end answers each with a `Beat`."""

    load: EngineLoad
    is_ready: bool  # False while the engine makes no progress
    others: Held = NOTHING_HELD  # what is inside at all other front ends


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainFrontEnd:
    """Take nothing new, finish what is open, then end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """End now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndReady:
    """The front end listens."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndFailure:
    """The front end cannot serve and ends."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The front end's event loop is alive, and this is what it has seen."""

    counted: Counted
    held: Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """Much more is inside than was told; both ways, of one or of all others."""

    part: Held  # of tenants only those that have grown


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A client has chosen this id; a `Claimed` of the same number answers."""

    number: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    number: int
    is_free: bool  # or was: now it is of who asked; False: another front end has it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseClaim:
    """The request of this id is over; only its owner says so."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountAsked:
    """A front end asks what the others have counted; a `CountTold` answers."""

    number: int
    counted: Counted  # by who asks: nobody is told less from now on


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTold:
    """The engine and all other front ends, living and dead, have counted this."""

    number: int
    counted: Counted
    load: EngineLoad  # as of now, or the next front end would tell less


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequests:
    """These requests are to end; this front end may or may not have them."""

    request_ids: tuple[str, ...]


ToFront = (
    Welcome
    | StepMessage
    | Pulse
    | DrainFrontEnd
    | Hurry
    | EngineStopped
    | AbortRequests
    | CountTold
    | Grown
    | Claimed
)
ToEngine = (
    Submit
    | Abort
    | AbortRequests
    | FrontEndReady
    | FrontEndFailure
    | Beat
    | CountAsked
    | Grown
    | Claim
    | ReleaseClaim
)

TO_FRONT_BYTES = 2**30  # the engine's own words: prompt log probabilities are large
TO_ENGINE_BYTES = 2**24  # a prompt of four million tokens


@final
class Codec:
    """Turns messages of one direction into bytes and back."""

    def __init__(self, types: tuple[type[Any], ...], *, max_bytes: int) -> None:
        self._kinds = {kind: index for index, kind in enumerate(types)}
        self._encoder = msgspec.msgpack.Encoder(enc_hook=simplify)
        self._decoders = [
            msgspec.msgpack.Decoder(kind, dec_hook=restore) for kind in types
        ]
        self._max_bytes = max_bytes

    def encode(self, message: object) -> bytes:
        """Returns the message with its head.

        Raises:
          WireError: it is larger than the other side would take.
        """
        body = self._encoder.encode(message)
        if not (len(body) <= self._max_bytes):
            raise WireError(
                f"a {type(message).__name__} of {len(body)} bytes exceeds the "
                f"{self._max_bytes} that a message may have"
            )
        return with_head(body, kind=self._kinds[type(message)])

    def decode(self, kind: int, body: memoryview) -> Any:
        """Returns the message of a body.

        Raises:
          WireError: no such kind, or no such message.
        """
        if not (kind < len(self._decoders)):
            raise WireError(f"there is no message of kind {kind}")
        try:
            return self._decoders[kind].decode(body)
        except UNREADABLE as error:
            raise WireError(f"a message cannot be read: {error}") from error

    def reader(self) -> "MessageReader":
        return MessageReader(self, max_bytes=self._max_bytes)


class Decodes(Protocol):
    """A codec reads the body of a message of one of its kinds."""

    def decode(self, kind: int, body: memoryview) -> Any: ...


def with_head(body: bytes, *, kind: int) -> bytes:
    """Returns the body of a message after its head."""
    return HEAD.pack(len(body), kind) + body


@final
class MessageReader:
    """Puts messages together from pieces of a stream."""

    def __init__(self, codec: Decodes, *, max_bytes: int) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Returns all messages that `data` completes.

        Raises:
          WireError: the stream cannot be understood; it is of no more use.
        """
        buffer = self._buffer
        buffer += data
        messages, at = [], 0
        with memoryview(buffer) as view:
            while len(buffer) - at >= HEAD.size:
                size, kind = HEAD.unpack_from(buffer, at)
                if not (size <= self._max_bytes):
                    raise WireError(
                        f"a message of {size} bytes; at most {self._max_bytes} are "
                        "allowed"
                    )
                start = at + HEAD.size
                if len(buffer) < start + size:
                    break
                with view[start : start + size] as body:
                    messages.append(self._codec.decode(kind, body))
                at = start + size
        del buffer[:at]
        return messages


def to_front() -> Codec:
    """Returns the codec of what a front end reads."""
    return Codec(get_args(ToFront), max_bytes=TO_FRONT_BYTES)


def to_engine() -> Codec:
    """Returns the codec of what a front end writes."""
    return Codec(get_args(ToEngine), max_bytes=TO_ENGINE_BYTES)


def simplify(value: object) -> object:
    """Writes what msgpack has no word for in words that it has."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


def restore(kind: Any, value: Any) -> object:
    """Reverses `simplify`; `kind` is the annotation."""
    if get_origin(kind) is np.ndarray:
        _, dtype = get_args(kind)
        shape, data = value
        if not all(size >= 0 for size in shape):
            raise ValueError(f"an array cannot have the shape {shape!r:.100}")
        return np.frombuffer(data, dtype=get_args(dtype)[0]).reshape(shape)
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind} cannot be received")
