"""An event is what a driver tells the machines, besides passing messages on.

`StartRequest` to `Resend` are for the controller, `Took` to `Resend` for an endpoint.
An event about a copy that has gone meanwhile is ignored, so a driver may report late.
"""

from dataclasses import dataclass

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDevice:
    """A device holds no copies and may get some: build its `Endpoint` afresh."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseDevice:
    """A device is fenced: nothing that it holds or says counts from now on."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """Run a request that has no home; `known` tokens are its prompt and its stream."""

    request: RequestId
    device: DeviceGroupId
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginMove:
    """Bring a request to the target of `move`, from wherever it is by then.

    It waits for whatever is in flight for the request; a newer one takes its place.
    """

    move: plan.Move
    mode: Mode
    pages: int  # that it needs at the target by now
    known: int  # tokens of prompt and stream so far


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortMove:
    """Call a move off, for example because a transfer hangs; too late is no error."""

    request: RequestId
    move: MoveId


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptRequest:
    """A request runs at a device already, as a copy that a predecessor has named."""

    request: RequestId
    device: DeviceGroupId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptRequest:
    """Take a request's pages away; a later `StartRequest` starts it again."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A request has finished, is cancelled or has failed; unknown ones are ignored."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """Say again what has not been answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """A new controller knows these copies alone: rows run on, moves are off.

    Openings below `horizon` that are still on their way are of its predecessor.
    """

    copies: frozenset[CopyId]
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """`TakePages` is done: the first `cached` positions are pinned, not empty."""

    request: RequestId
    copy_id: CopyId
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`TakePages` or `WriteChunk` could not be done: no room, or a broken transfer."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """`WriteChunk` is done: positions up to `end` can be attended to."""

    request: RequestId
    copy_id: CopyId
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A watched row has `computed` positions in its pages."""

    request: RequestId
    copy_id: CopyId
    computed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStopped:
    """`StopRow` is done: no step in flight has the row any more.

    `tail` are its tokens from position `since` (given by `StopRow`) on.
    """

    request: RequestId
    copy_id: CopyId
    computed: int
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLost:
    """A row can no longer be moved: it was preempted on its device, or has ended."""

    request: RequestId
    copy_id: CopyId


ControllerEvent = (
    AddDevice
    | LoseDevice
    | StartRequest
    | BeginMove
    | AbortMove
    | AdoptRequest
    | PreemptRequest
    | End
    | Resend
)
EndpointEvent = (
    Keep | Took | Failed | Written | Computed | RowStopped | RowLost | Resend
)
