"""The engine of a host hands these values to its links, and gets some from them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.frames import StepFrame, Submit
from mell_jax.engine.hosts.load import HostLoad
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, FrontId, Tokens
from mell_jax.scheduler.migration import messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message between device groups of two hosts, with its pages or tokens."""

    device: DeviceGroupId  # that it is for
    message: messages.Chunk | messages.Received
    pages: PageTransfer | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningParcel:
    """An opening, with the request and those of its tokens that are known."""

    opening: words.Opening
    submit: Submit
    seed: int
    tokens: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFrame:
    """A step's frame, with the copy of every row and its place in the answer.

    Row i is token `starts[i]` of the answer, by copy `copies[i]`; `ends` are the copies
    and token counts of `frame.finished`, in its order.
    """

    frame: StepFrame
    copies: npt.NDArray[np.int64]  # [n]
    starts: npt.NDArray[np.int32]  # [n]
    ends: tuple[tuple[CopyId, int], ...]


class Wires(Protocol):
    """The engine's thread leaves messages for others, and never waits."""

    def to_controller(self, message: words.FromHost) -> None: ...

    def to_front(self, front: FrontId, message: words.HostToFront) -> None: ...

    def to_fronts(self, frame: HostFrame) -> None:
        """Sends every front end the rows of its requests."""

    def tell_load(self, load: HostLoad) -> None:
        """Tells all front ends how busy the host is."""

    def to_peer(self, host: words.Host, parcel: Parcel) -> None: ...

    def hang_up(self) -> None:
        """Ends all links but that to the controller: the host begins anew."""

    @property
    def fronts(self) -> tuple[FrontId, ...]:
        """Returns the front ends that have a link."""


# What links tell the engine.


@dataclass(frozen=True, slots=True, kw_only=True)
class MetController:
    """There is a link to a controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutController:
    """There is none any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromController:
    """The controller says something."""

    message: words.ToHost


@dataclass(frozen=True, slots=True, kw_only=True)
class FromFront:
    """A front end says something."""

    front: FrontId
    message: words.Drop | OpeningParcel


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFront:
    """There is no link to a front end any more."""

    front: FrontId


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPeer:
    """There is no link to another host, or none any more."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A beat is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The host is to end once its requests have moved away."""


Heard = (
    MetController
    | CutController
    | FromController
    | FromFront
    | CutFront
    | CutPeer
    | Leave
    | Parcel
    | Pulse
)
