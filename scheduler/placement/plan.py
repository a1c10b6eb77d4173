"""The placement machine answers with a plan: decisions, in the order to obey them."""

from dataclasses import dataclass
from enum import Enum

from mell_jax.scheduler.ids import (
    DeviceGroupId,
    KindId,
    ModelId,
    MoveId,
    RequestId,
)
from mell_jax.scheduler.placement.kind import ONLY_KIND


class RejectReason(Enum):
    """A request is refused for good for one of these reasons."""

    TOO_LARGE = "it can never fit an instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The request runs on `device` with `pages`; also ends an earlier `Wait`."""

    request: RequestId
    device: DeviceGroupId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Copy or recompute the request at `target`; `pages` are reserved there.

    Both ends count the pages until `MoveCommitted` or `MoveAborted` names `move`.
    """

    move: MoveId
    request: RequestId
    source: DeviceGroupId
    target: DeviceGroupId
    pages: int
    is_urgent: bool  # another request cannot grow until it is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """There is no room: an unplaced request queues, a placed one pauses with its pages.

    A later `Place` or `Move` of the same request ends it.
    """

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Load `model` on an idle device group."""

    device: DeviceGroupId
    model: ModelId
    load_s: float
    weights_bytes: int
    kind: KindId = ONLY_KIND  # of the device group


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """The device group serves nothing and may be used for something else."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The request will not be served."""

    request: RequestId
    reason: RejectReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """The request loses its pages on `device` and queues to be computed again."""

    request: RequestId
    device: DeviceGroupId


Decision = Place | Move | Wait | Activate | Park | Reject | Preempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan answers one event."""

    decisions: tuple[Decision, ...] = ()


NOTHING = Plan()
