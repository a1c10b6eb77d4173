"""What the controller keeps: an owner per request, and its move if there is one."""

from enum import Enum

from mell_jax.scheduler.ids import DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration import events, messages


class Phase(Enum):
    """Where a move is, as the controller knows it."""

    RESERVING = "the destination is to take pages"
    COPYING = "the source sends; both ends report when they are through"
    COMMITTED = "the destination owns it, the source is to release"
    ABORTING = "the source owns it, the destination is to release"


class OpenMove:
    """A move from its order until both ends are settled."""

    __slots__ = (
        "cached",
        "epoch",
        "is_ready",
        "is_resumed",
        "order",
        "phase",
        "source",
        "source_epoch",
        "stopped",
    )

    def __init__(
        self,
        order: events.Move,
        *,
        epoch: Epoch,
        source: DeviceGroupId,
        source_epoch: Epoch,
    ) -> None:
        self.order = order
        self.epoch = epoch  # of the copy at the target
        self.source = source
        self.source_epoch = source_epoch
        self.phase = Phase.RESERVING
        self.cached = 0
        self.stopped: messages.Stopped | None = None
        self.is_ready = False
        self.is_resumed = False

    def reserve(self, *, horizon: Epoch) -> messages.Reserve:
        order = self.order
        return messages.Reserve(
            request=order.request,
            epoch=self.epoch,
            mode=order.mode,
            pages=order.pages,
            known=order.known,
            horizon=horizon,
        )

    def begin(self) -> messages.Begin:
        order = self.order
        return messages.Begin(
            request=order.request,
            epoch=self.source_epoch,
            to_epoch=self.epoch,
            target=order.target,
            mode=order.mode,
            first=self.cached,
            known=order.known,
            is_urgent=order.is_urgent,
        )

    def resume(self) -> messages.Resume:
        return messages.Resume(
            request=self.order.request,
            epoch=self.source_epoch,
            to_epoch=self.epoch,
        )


class Owner:
    """Who a request belongs to: the copy `epoch` on `home`."""

    __slots__ = (
        "closing",
        "epoch",
        "home",
        "is_over",
        "move",
        "next_move",
        "opening",
        "request",
        "waiting",
    )

    def __init__(self, request: RequestId) -> None:
        self.request = request
        self.epoch = Epoch(-1)
        self.home: DeviceGroupId | None = None
        self.opening: messages.Start | messages.Commit | None = None  # until Started
        self.closing: dict[Epoch, DeviceGroupId] = {}  # copies that are to be released
        self.waiting: events.Place | None = None  # for `closing` to be empty
        self.move: OpenMove | None = None
        self.next_move: events.Move | None = None  # waits for all of the above
        self.is_over = False
