"""Controller, hosts and front ends send each other these plain values.

Those of `scheduler.migration.messages` travel inside `Told`, `Order`, `Relayed` and
`Opening`. Payload (the request itself, its tokens, pages) travels beside them and is
the driver's. `epoch` names a host as it was admitted, `device` a group of its devices.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mell_jax.scheduler.hosts.wishes import Wish, WishAnswer
from mell_jax.scheduler.ids import (
    NO_COPY,
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    ModelId,
    RequestId,
)
from mell_jax.scheduler.migration import messages

STRIDE = 256
"""Between two copy ids of the controller; a front end alone gives out those between."""

Opened = messages.Start | messages.Reserve | messages.Commit
Ordered = messages.Begin | messages.Resume | messages.Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """These are the highest numbers that somebody has heard of, all at zero at first.

    A controller that begins gives out higher ones.
    """

    copy_id: CopyId
    device: int

    def with_hosts(self, hosts: "Hosts") -> "Seen":
        """Returns what has been heard of after that message, too."""
        return self.with_devices(d for host in hosts.hosts for d in host.devices)

    def with_devices(self, devices: Iterable[DeviceGroupId]) -> "Seen":
        """Returns what has been heard of after these were named, too."""
        return replace(self, device=max([self.device, *devices]))

    def with_copy(self, copy_id: CopyId) -> "Seen":
        """Returns what has been heard of after that copy was named, too."""
        return replace(self, copy_id=max(self.copy_id, copy_id))


NOTHING_SEEN = Seen(copy_id=NO_COPY, device=0)

# A host and the controller.


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCopy:
    """A host holds a copy of a request, which runs, or is to come."""

    request: RequestId
    copy_id: CopyId
    device: DeviceGroupId
    pages: int  # granted
    is_whole: bool  # it runs, or has all that a commit needs


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """A device group of a host serves a model, or none.

    `since` names the time for which it does: the horizon that it was opened with.
    """

    device: DeviceGroupId
    model: ModelId | None
    since: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A host says what it is, and what it has; first of all to each controller.

    `epoch` is None before it was admitted; then nothing counts but `num_groups`, which
    work, and `aside`: which of these, or of `groups`, an operator has set aside.
    """

    name: str
    num_groups: int
    epoch: Epoch | None = None
    admitted: tuple[DeviceGroupId, ...] = ()  # also those that have failed since
    aside: tuple[int, ...] = ()
    groups: tuple[GroupReport, ...] = ()
    copies: tuple[HeldCopy, ...] = ()
    seen: Seen = NOTHING_SEEN
    prefill_tokens_per_s: float = math.inf  # of each group, for moves
    is_leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """A host is about to end: its requests are to move away, and none to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """A host is in the fleet, under a new epoch, and begins empty."""

    epoch: Epoch
    devices: tuple[DeviceGroupId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retain:
    """A host stays in the fleet; it holds these copies alone from now on."""

    copies: frozenset[CopyId]
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced:
    """A host was given up: nothing that it holds counts. It joins again, empty."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The controller tells a device something that opens nothing."""

    device: DeviceGroupId
    message: Ordered


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A device answers the controller."""

    device: DeviceGroupId
    message: messages.ToController


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A row needs `pages` in all to go on."""

    request: RequestId
    copy_id: CopyId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A row has `pages` in all."""

    request: RequestId
    copy_id: CopyId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGroup:
    """A device group is to serve a model; copies below `horizon` are not for it."""

    device: DeviceGroupId
    model: ModelId
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseGroup:
    """A device group is to serve nothing."""

    device: DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An operator has a device group set aside, or used again.

    The host remembers it for controllers to come, as long as its process lives.
    """

    device: DeviceGroupId
    is_aside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOpened:
    """A device group is ready, after so many seconds."""

    device: DeviceGroupId
    model: ModelId
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFailed:
    """A device group has failed and is not used again."""

    device: DeviceGroupId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMeasured:
    """Pages of so many bytes took so long from another host to this device."""

    source: DeviceGroupId
    device: DeviceGroupId
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCut:
    """A host has lost its link to another one; moves between them are off."""

    epoch: Epoch


# A front end and the controller.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request needs a place; it has `known` tokens, `prompt` of them its prompt."""

    request: RequestId
    model: ModelId
    prompt: int
    known: int
    pages: int
    peak_pages: int | None
    tenant: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """A stream is open, and follows a copy, or waits for one."""

    ask: Ask
    copy_id: CopyId | None
    epoch: Epoch | None  # of the host of that copy
    device: DeviceGroupId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enter:
    """A front end says what it has; first of all to each controller."""

    front: FrontId
    streams: tuple[StreamReport, ...] = ()
    hosts: tuple[Epoch, ...] = ()  # that it has links to
    seen: Seen = NOTHING_SEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host is in the fleet, with these device groups."""

    epoch: Epoch
    name: str
    devices: tuple[DeviceGroupId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """These are all the hosts of the fleet; others count no more."""

    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsChanged:
    """Some hosts have come or gone since the last word of who is there."""

    came: tuple[Host, ...] = ()
    gone: tuple[Epoch, ...] = ()

    def applied(self, hosts: Iterable[Host]) -> Hosts:
        """Returns the hosts that there are now."""
        left = tuple(host for host in hosts if host.epoch not in self.gone)
        return Hosts(hosts=(*left, *self.came))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """A front end is to pass an opening on, with what belongs to it."""

    epoch: Epoch
    device: DeviceGroupId
    since: CopyId
    pages: int
    message: Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Disowned:
    """A request has no copy for now; what its copies say does not count."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request will not be served."""

    request: RequestId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A request is over: its stream is complete, or nobody wants it any more."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A stream cannot go on as this copy: it lacks tokens of the one before."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A front end has a link to a host."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """A front end has no link to a host, or has none any more."""

    epoch: Epoch


# A front end and a host.


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A copy begins, or pages are kept for one; with the request and its tokens.

    `since` names the time that the group serves its model, which it may hear of later;
    None: it is the front end's own choice, while there is no controller.
    """

    device: DeviceGroupId
    since: CopyId | None
    pages: int
    message: Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A front end wants no more of a copy."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A copy has brought tokens; the first one is number `start` of the answer."""

    request: RequestId
    copy_id: CopyId
    start: int
    tokens: tuple[int, ...]
    is_end: bool = False
    data: object = None  # the driver's, passed on with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A copy is not there any more, whoever has ended it."""

    request: RequestId
    copy_id: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A device that serves a model has so many pages that nobody was granted."""

    device: DeviceGroupId
    model: ModelId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """A host tells front ends, now and then, where there is room."""

    rooms: tuple[Room, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Somebody is there. Everybody sends it to everybody, once a beat."""


FromHost = (
    Join
    | Leave
    | Told
    | Want
    | GroupOpened
    | GroupFailed
    | LinkMeasured
    | PeerCut
    | Beat
)
ToHost = (
    Admit
    | Retain
    | Fenced
    | Hosts
    | HostsChanged
    | Order
    | Grant
    | OpenGroup
    | CloseGroup
    | SetAside
    | Beat
)
FromFront = Enter | Ask | Over | Broken | Reached | Unreachable | Wish | Beat
ToFront = Hosts | HostsChanged | Relayed | Disowned | Refused | WishAnswer | Beat
FrontToHost = Opening | Drop | Beat
HostToFront = Row | Gone | Rooms | Beat
