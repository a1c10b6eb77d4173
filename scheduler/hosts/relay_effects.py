"""A relay tells its driver to do these things, in order."""

from dataclasses import dataclass

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import Epoch, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class ToController:
    """Send this to the controller."""

    message: words.FromFront


@dataclass(frozen=True, slots=True, kw_only=True)
class ToHost:
    """Send this to a host; with an opening go the request and its known tokens."""

    epoch: Epoch
    message: words.FrontToHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Connect to a host; tell `reached` or `cut_host`."""

    host: words.Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """End the link to a host that is in the fleet no more."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Pass tokens on to the client."""

    row: words.Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Tell the client that its request will not be served."""

    request: RequestId
    reason: str


Effect = ToController | ToHost | Reach | Leave | Pass | Fail
