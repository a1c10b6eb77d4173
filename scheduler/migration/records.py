"""The controller keeps an owner per request, and its move if there is one."""

from enum import Enum

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.migration import events, messages


class MovePhase(Enum):
    """A move is in one of these phases, as far as the controller knows."""

    RESERVING = "the destination is to take pages"
    COPYING = "the source sends; both ends report when they are through"
    COMMITTED = "the destination owns it, the source is to release"
    ABORTING = "the source owns it, the destination is to release"


class OpenMove:
    """A move is open from its order until both ends are settled."""

    __slots__ = (
        "cached",
        "copy_id",
        "is_ready",
        "is_resumed",
        "order",
        "phase",
        "source",
        "source_copy_id",
        "stopped",
    )

    def __init__(
        self,
        order: events.BeginMove,
        *,
        copy_id: CopyId,
        source: DeviceGroupId,
        source_copy_id: CopyId,
    ) -> None:
        self.order = order
        self.copy_id = copy_id  # of the copy at the target
        self.source = source  # its owner when the move began
        self.source_copy_id = source_copy_id
        self.phase = MovePhase.RESERVING
        self.cached = 0
        self.stopped: messages.Stopped | None = None
        self.is_ready = False
        self.is_resumed = False

    @property
    def id(self) -> MoveId:
        """Returns the id that placement gave the move."""
        return self.order.move.move

    @property
    def request(self) -> RequestId:
        """Returns the request that moves."""
        return self.order.move.request

    @property
    def target(self) -> DeviceGroupId:
        """Returns the device that it moves to."""
        return self.order.move.target

    @property
    def is_open(self) -> bool:
        """Returns whether it may still be called off."""
        return self.phase in (MovePhase.RESERVING, MovePhase.COPYING)

    def reserve(self, *, horizon: CopyId) -> messages.Reserve:
        """Returns the request for pages, for the target."""
        order = self.order
        return messages.Reserve(
            request=self.request,
            copy_id=self.copy_id,
            mode=order.mode,
            pages=order.pages,
            known=order.known,
            horizon=horizon,
        )

    def begin(self) -> messages.Begin:
        """Returns the order to copy, for the source."""
        order = self.order
        return messages.Begin(
            request=self.request,
            copy_id=self.source_copy_id,
            to_copy_id=self.copy_id,
            target=self.target,
            mode=order.mode,
            first=self.cached,
            known=order.known,
            is_urgent=order.move.is_urgent,
        )

    def resume(self) -> messages.Resume:
        """Returns the word that the move is off, for the source."""
        return messages.Resume(
            request=self.request,
            copy_id=self.source_copy_id,
            to_copy_id=self.copy_id,
        )


class Owner:
    """A request belongs to its copy `copy_id` on the device `home`."""

    __slots__ = (
        "closing",
        "copy_id",
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
        self.copy_id = CopyId(-1)
        self.home: DeviceGroupId | None = None
        self.opening: messages.Start | messages.Commit | None = None  # until Started
        self.closing: dict[CopyId, DeviceGroupId] = {}  # copies that are to be released
        self.waiting: events.StartRequest | None = None  # for `closing` to be empty
        self.move: OpenMove | None = None
        self.next_move: events.BeginMove | None = None  # waits for all of the above
        self.is_over = False

    def concerns(self, device: DeviceGroupId) -> bool:
        """Tells whether a loss of that device would change anything here."""
        move, waits = self.move, self.next_move
        return (
            self.home == device
            or device in self.closing.values()
            or (move is not None and move.is_open and move.target == device)
            or (waits is not None and waits.move.target == device)
        )
