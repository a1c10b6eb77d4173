"""An effect is what a driver has to do; it does them in the order given.

Those of an endpoint concern one copy, named by its copy id, on that endpoint's device.
"""

from dataclasses import dataclass

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration.messages import Message
from mell_jax.scheduler.placement.events import MoveAborted, MoveCommitted
from mell_jax.scheduler.transfer import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Pass a message on, with its payload; the machines live with its loss."""

    to: DeviceGroupId  # or CONTROLLER
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TakePages:
    """Take room for `pages` pages and pin known prefix pages; answer Took or Failed."""

    request: RequestId
    copy_id: CopyId
    pages: int
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteChunk:
    """Scatter the pages that came, or prefill the tokens; answer Written or Failed.

    Takes more pages if the request has outgrown its reservation. What is written must
    not be found by other prompts before StartRow: the move may yet be called off.
    """

    request: RequestId
    copy_id: CopyId
    mode: Mode
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRow:
    """Report Computed now and after each step, until `Endpoint.is_moving` says no."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRow:
    """Take the row out of the batch; answer RowStopped with tokens from `since` on.

    The row computes nothing until ResumeRow, also if it is preempted meanwhile.
    """

    request: RequestId
    copy_id: CopyId
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRow:
    """Undo StopRow: back into the batch, or the queue if the pages were lost."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """Run a copy: its pages hold `computed` positions, the rest is prefilled.

    Its tokens are those that came with `Start` or `Reserve`, then `tail` from `since`.
    """

    request: RequestId
    copy_id: CopyId
    computed: int
    since: int
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Drop row, pages and pins of a copy, whatever it was doing: the one release."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Give tokens to the request's stream, as if they came from `copy_id`'s row."""

    request: RequestId
    copy_id: CopyId
    since: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Let the request's stream take tokens of `copy_id` alone from now on."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the placement machine how a move ended."""

    event: MoveCommitted | MoveAborted


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """An ended request holds nothing anywhere any more."""

    request: RequestId


EndpointEffect = (
    Send | TakePages | WriteChunk | WatchRow | StopRow | ResumeRow | StartRow | Free
)
ControllerEffect = Send | Deliver | Fence | Report | Forget
