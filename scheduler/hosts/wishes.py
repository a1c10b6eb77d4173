"""Front ends tell the controller what an operator wants by these plain values.

    operator -> front end -- MoveWish, AsideWish, PolicyWish --> controller
             <-            <-- MoveDone, AsideDone, PolicyDone, WishRefused --

Each wish has one answer, of the same `ticket`, unless the link between them ends.
"""

from dataclasses import dataclass
from enum import Enum, auto

from mell_jax.scheduler.ids import DeviceGroupId, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveWish:
    """A request is to move to a device group."""

    ticket: int
    request: RequestId
    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class AsideWish:
    """A device group is to be set aside, or used again.

    Requests move away from one that is set aside; then it serves nothing.
    """

    ticket: int
    device: DeviceGroupId
    is_aside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWish:
    """Another policy is to place requests; None leaves its own default."""

    ticket: int
    policy: str
    look_s: float | None
    headroom: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveDone:
    """A request was at `source`; it is on its way, or need not go anywhere."""

    ticket: int
    source: DeviceGroupId
    is_moving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AsideDone:
    """A device group is set aside, or used again."""

    ticket: int
    is_serving: bool  # it has a model
    is_open: bool  # its instance is ready
    requests_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDone:
    """Another policy places requests from now on."""

    ticket: int
    before: str
    look_s: float


class WishFault(Enum):
    """The fault says what is wrong with a wish."""

    UNKNOWN = auto()  # it names something that is not there
    INVALID = auto()  # a value is out of range
    NOT_POSSIBLE = auto()  # as things are


@dataclass(frozen=True, slots=True, kw_only=True)
class WishRefused:
    """A wish is not fulfilled, and nothing has changed."""

    ticket: int
    fault: WishFault
    reason: str
    field: str = ""  # that has an invalid value


Wish = MoveWish | AsideWish | PolicyWish
WishAnswer = MoveDone | AsideDone | PolicyDone | WishRefused
