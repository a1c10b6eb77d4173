"""The placement machine is told what happens to a fleet by these values alone.

Page counts are those of the request's model. An event is never changed once made, so
a list of events is a record that can be replayed.
"""

import math
from dataclasses import dataclass

from mell_jax.scheduler.ids import (
    DeviceGroupId,
    KindId,
    ModelId,
    MoveId,
    RequestId,
)
from mell_jax.scheduler.placement.kind import ONLY_KIND

ONLY_MODEL = ModelId("default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """An instance already holds so many pages of a request's prefix."""

    device: DeviceGroupId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrive:
    """A request needs a place.

    `pages` is what it needs to start. `peak_pages` is the most it may ever need, if
    known: a request whose peak cannot fit an instance is rejected, it goes only to
    kinds of devices that can hold it, and the clairvoyant baseline reserves it. Tenants
    that wait share by their weights; the latest weight of a tenant counts.
    """

    request: RequestId
    pages: int
    model: ModelId = ONLY_MODEL
    peak_pages: int | None = None
    prefix: tuple[Cached, ...] = ()
    tenant: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow:
    """A placed request needs `pages` in all before it can go on."""

    request: RequestId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A request is done, cancelled or given up; it may be anywhere, also waiting."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocate:
    """An operator wants a request on another instance; without room it stays."""

    request: RequestId
    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An epoch ends at `now_s`."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """The time has come that the machine's `wake_s` named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAdded:
    """A device group may be used from now on, also one that is being given back."""

    device: DeviceGroupId
    kind: KindId = ONLY_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRemoved:
    """A device group is to be given back: its requests move away, then it is parked."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLost:
    """A device group and every page on it are gone."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesLost:
    """Device groups are gone at the same time: nothing goes from one to another."""

    devices: tuple[DeviceGroupId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """An instance was ready `took_s` after its `Activate`, as measured."""

    model: ModelId
    took_s: float
    kind: KindId = ONLY_KIND

    def __post_init__(self) -> None:
        if not (0 <= self.took_s < math.inf):
            raise ValueError(f"took_s must be finite and >= 0, got {self.took_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveCommitted:
    """The target owns the request; the source's pages are free."""

    move: MoveId


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveAborted:
    """The move failed; the request stays at its source."""

    move: MoveId


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A device group that joins serves a model already; it is no idle one."""

    device: DeviceGroupId
    model: ModelId = ONLY_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """A request runs there already, as known from before: the books begin with it.

    If it does not fit, it loses its pages and queues, as one that is displaced.
    """

    arrival: Arrive
    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class Displace:
    """A placed request has lost its pages where it was; it queues to be placed anew."""

    request: RequestId


Event = (
    Arrive
    | Grow
    | Finish
    | Relocate
    | Tick
    | Wake
    | DeviceAdded
    | DeviceRemoved
    | DeviceLost
    | DevicesLost
    | Activated
    | MoveCommitted
    | MoveAborted
    | Serving
    | Adopt
    | Displace
)
