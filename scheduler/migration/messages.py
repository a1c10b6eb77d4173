"""Controller and endpoints send each other these plain values.

Payload travels beside them and is the driver's: with `Start` and `Reserve` the request
itself and its first `known` tokens, with a `Chunk` its pages or token ids. Positions
and lengths are in tokens, counted from the prompt's first. `copy_id` names the copy
that a message is about, `to_copy_id` the copy that a move is to make.
"""

from dataclasses import dataclass

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.transfer import Mode

CONTROLLER = DeviceGroupId(-1)
"""Where endpoints send what is not for another endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Tells a device that it owns the request: prefill `known` tokens and go on."""

    request: RequestId
    copy_id: CopyId
    known: int
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Tells a destination to take `pages`, sharing and pinning a known prefix."""

    request: RequestId
    copy_id: CopyId
    mode: Mode
    pages: int
    known: int
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Tells a source to send what it has from position `first` on to the target."""

    request: RequestId
    copy_id: CopyId
    to_copy_id: CopyId
    target: DeviceGroupId
    mode: Mode
    first: int
    known: int  # tokens that the target was told with `Reserve`
    is_urgent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Tells a source to decode on: the move is off and can never be committed."""

    request: RequestId
    copy_id: CopyId
    to_copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Tells a destination that it owns the request, with the tokens since `Reserve`."""

    request: RequestId
    copy_id: CopyId
    since: int  # position of tail[0]
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Tells a device to free this copy, whatever its state."""

    request: RequestId
    copy_id: CopyId
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The row of this copy runs."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Pages are taken; the first `cached` positions are there already."""

    request: RequestId
    copy_id: CopyId
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The destination has no room, or could not write what it was sent."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The row left the source's batch; `tail` are its tokens from `since` on."""

    request: RequestId
    copy_id: CopyId
    to_copy_id: CopyId
    since: int
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """The source cannot go on with the move, and waits for `Resume`."""

    request: RequestId
    copy_id: CopyId
    to_copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The source has done with this move."""

    request: RequestId
    copy_id: CopyId
    to_copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The destination has all that the source had when its row stopped."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The device holds nothing under this copy id, and never will again."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Brings a destination positions [first, end), as pages or as token ids.

    `first` is the beginning of a page; so is `end`, unless `is_last`. Where a stage
    ends the row often comes next.
    """

    request: RequestId
    copy_id: CopyId  # the destination's
    from_copy_id: CopyId  # the source's, for the answer
    source: DeviceGroupId
    mode: Mode
    first: int
    end: int
    is_last: bool
    ends_stage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Tells a source that positions up to `end` are at the destination."""

    request: RequestId
    copy_id: CopyId  # the source's
    to_copy_id: CopyId
    end: int


ToEndpoint = Start | Reserve | Begin | Resume | Commit | Release | Chunk | Received
ToController = (
    Started | Reserved | Refused | Stopped | GaveUp | Resumed | Ready | Released
)
Message = ToEndpoint | ToController
