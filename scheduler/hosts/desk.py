"""A host's part: who has been granted what, and what it decides while it is alone.

    front end -- Opening, Drop --> desk -- Deliver --> endpoint of a device group
    controller -- Order, Grant -->  |
                <-- Told, Want -----'

It owns no pages and no rows: those are the instances', which its driver tells of what
comes out here. While there is no controller it grants pages as long as there are any.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.desk_effects import (
    Begin,
    Change,
    Deliver,
    Effect,
    LetGrow,
    ToController,
    ToFront,
)
from mell_jax.scheduler.hosts.granted import Granted, Held
from mell_jax.scheduler.ids import (
    NO_COPY,
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    ModelId,
    front_of,
)
from mell_jax.scheduler.migration import events, messages

__all__ = [
    "Begin",
    "Change",
    "Deliver",
    "Desk",
    "Effect",
    "LetGrow",
    "ToController",
    "ToFront",
]


class Desk:
    """The desk is one host's.

    Args:
      name: of the host, in logs and metrics.
      num_groups: of devices.
      capacity_pages: that an instance of each model has.
      prefill_tokens_per_s: of each group, beside its decodes; for moves.
    """

    def __init__(
        self,
        name: str,
        *,
        num_groups: int,
        capacity_pages: dict[ModelId, int],
        prefill_tokens_per_s: float = math.inf,
    ) -> None:
        self.epoch: Epoch | None = None
        self.serves: dict[DeviceGroupId, ModelId | None] = {}
        self._since: dict[DeviceGroupId, CopyId] = {}
        self._seen = words.NOTHING_SEEN
        self.hosts: tuple[words.Host, ...] = ()
        self._name = name
        self.num_groups = num_groups
        self._capacity_pages = capacity_pages
        self._is_alone = True
        self._is_leaving = False
        self._admitted: tuple[DeviceGroupId, ...] = ()
        self._aside: set[DeviceGroupId] = set()  # an operator has these
        self._aside_before: tuple[int, ...] = ()  # it was fenced; of those that worked
        self._prefill_tokens_per_s = prefill_tokens_per_s
        self._granted = Granted()
        self._early: dict[DeviceGroupId, list[words.Opening]] = {}  # before they serve
        self._effects: list[Effect] = []
        self._hears: dict[type, Callable[[Any], None]] = {
            words.Admit: self._admit,
            words.Retain: self._retain,
            words.Fenced: self._fenced,
            words.Hosts: self._learn_hosts,
            words.HostsChanged: lambda m: self._learn_hosts(m.applied(self.hosts)),
            words.Order: self._order,
            words.Grant: self._grant,
            words.OpenGroup: self._open_group,
            words.CloseGroup: self._close_group,
            words.SetAside: self._set_aside,
            words.Beat: lambda _: None,
        }

    @property
    def is_alone(self) -> bool:
        """Returns whether there is no controller."""
        return self._is_alone

    @property
    def held_pages(self) -> dict[CopyId, int]:
        """Returns the pages that every copy here was granted."""
        return {copy_id: held.pages for copy_id, held in self._granted.copies.items()}

    @property
    def aside(self) -> frozenset[DeviceGroupId]:
        """Returns the device groups here that an operator has set aside."""
        return frozenset(self._aside & self.serves.keys())

    def host_of(self, device: DeviceGroupId) -> Epoch | None:
        """Returns the host that has a device group; None if no host has it now."""
        for host in self.hosts:
            if device in host.devices:
                return host.epoch
        return None

    # -- the controller's side -----------------------------------------------------

    def meet_controller(self, *, whole: Collection[CopyId]) -> Sequence[Effect]:
        """Tells a controller, to which there is a link now, what there is.

        Args:
          whole: the copies that run, or have all that a commit needs.
        """
        self._is_alone = False
        self._join(whole)
        return self._done()

    def _join(self, whole: Collection[CopyId]) -> None:
        copies = tuple(
            words.HeldCopy(
                request=held.request,
                copy_id=copy_id,
                device=held.device,
                pages=held.pages,
                is_whole=copy_id in whole,
            )
            for copy_id, held in self._granted.copies.items()
        )
        groups = tuple(
            words.GroupReport(device=device, model=model, since=self._since[device])
            for device, model in self.serves.items()
        )
        join = words.Join(
            name=self._name,
            num_groups=self.num_groups,
            epoch=self.epoch,
            admitted=self._admitted,
            aside=self._numbers_aside(),
            groups=groups,
            copies=copies,
            seen=self._seen,
            prefill_tokens_per_s=self._prefill_tokens_per_s,
            is_leaving=self._is_leaving,
        )
        self._tell(join)

    def _numbers_aside(self) -> tuple[int, ...]:
        """Returns which of the groups that work an operator has set aside."""
        if self.epoch is None:
            return self._aside_before
        return tuple(n for n, each in enumerate(self.serves) if each in self._aside)

    def cut_controller(self) -> Sequence[Effect]:
        """Goes on alone: what was wanted is granted here, as far as there are pages."""
        self._is_alone = True
        for device in self.serves:
            self._serve(device)
        return self._done()

    def leave(self) -> Sequence[Effect]:
        """Asks for its requests to be moved away; see `is_empty`."""
        self._is_leaving = True
        self._tell(words.Leave())
        return self._done()

    @property
    def is_empty(self) -> bool:
        """Returns whether it holds nothing, and serves nothing."""
        return not self._granted.copies and not any(self.serves.values())

    def hear_controller(self, message: words.ToHost) -> Sequence[Effect]:
        """Does what the controller says."""
        self._hears[type(message)](message)
        return self._done()

    # -- the front ends' side ------------------------------------------------------

    def hear_front(
        self, front: FrontId, message: words.FrontToHost
    ) -> Sequence[Effect]:
        """Opens a copy, or drops one."""
        match message:
            case words.Opening():
                self._seen = self._seen.with_copy(message.message.copy_id)
                self._open(message)
            case words.Drop():
                held = self._granted.copies.get(message.copy_id)
                if held is not None and held.request == message.request:
                    self._release(message.copy_id)
            case words.Beat():
                pass
        return self._done()

    def cut_front(self, front: FrontId) -> Sequence[Effect]:
        """Drops what a front end had here: nobody hears it any more."""
        for copy_id in self._granted.of(front):
            self._release(copy_id)
        self._early = {
            device: [o for o in early if front_of(o.message.request) != front]
            for device, early in self._early.items()
        }
        return self._done()

    def tell_rooms(self, fronts: Collection[FrontId]) -> Sequence[Effect]:
        """Tells front ends where there is room."""
        rooms = tuple(
            words.Room(device=device, model=model, pages=self._free(device))
            for device, model in self.serves.items()
            if model is not None
        )
        for front in fronts:
            self._tell_front(front, words.Rooms(rooms=rooms))
        return self._done()

    # -- the instances' side -------------------------------------------------------

    def wants(self, copy_id: CopyId, *, pages: int) -> Sequence[Effect]:
        """A row needs so many pages in all to go on; it may ask again and again."""
        held = self._granted.copies.get(copy_id)
        if held is None or pages <= max(held.wanted, held.pages):
            return ()
        held.wanted = pages
        if self._is_alone:
            self._serve(held.device)
        else:
            self._ask(copy_id, held)
        return self._done()

    def says(
        self, device: DeviceGroupId, message: messages.ToController
    ) -> Sequence[Effect]:
        """An endpoint answers the controller; alone, nobody is there to hear it."""
        self._tell(words.Told(device=device, message=message))
        return self._done()

    def freed(self, copy_id: CopyId) -> Sequence[Effect]:
        """A copy holds nothing, any more or at all; its front end hears of that.

        An opening that comes after its release is one that opens nothing.
        """
        held = self._granted.copies.pop(copy_id, None)
        if held is not None:
            gone = words.Gone(request=held.request, copy_id=copy_id)
            self._tell_front(held.front, gone)
            if self._is_alone:
                self._serve(held.device)
        return self._done()

    def opened(
        self, device: DeviceGroupId, model: ModelId, *, took_s: float
    ) -> Sequence[Effect]:
        """A device group is ready."""
        self._tell(words.GroupOpened(device=device, model=model, took_s=took_s))
        return self._done()

    def failed(self, device: DeviceGroupId, *, reason: str) -> Sequence[Effect]:
        """A device group has failed: what it held is gone."""
        if device not in self.serves:
            return ()
        del self.serves[device]
        self._tell(words.GroupFailed(device=device, reason=reason))
        for opening in self._early.pop(device, ()):
            self._turn_away(opening)
        for copy_id in self._granted.on(device):
            held = self._granted.copies.pop(copy_id)
            gone = words.Gone(request=held.request, copy_id=copy_id)
            self._tell_front(held.front, gone)
        return self._done()

    def cut_peer(self, epoch: Epoch) -> Sequence[Effect]:
        """There is no link to another host."""
        self._tell(words.PeerCut(epoch=epoch))
        return self._done()

    # What the controller says.

    def _admit(self, message: words.Admit) -> None:
        if len(message.devices) != self.num_groups:  # one has failed since it joined
            self._begin_anew()
            return
        self._aside = {message.devices[number] for number in self._numbers_aside()}
        self.epoch = message.epoch
        self._admitted = message.devices
        self._granted.copies.clear()
        self._early.clear()
        self.serves = dict.fromkeys(message.devices, None)
        self._since = dict.fromkeys(message.devices, NO_COPY)
        self._seen = self._seen.with_devices(message.devices)
        self._effects.append(Begin(devices=message.devices))

    def _retain(self, message: words.Retain) -> None:
        for device in self.serves:
            keep = events.Keep(copies=message.copies, horizon=message.horizon)
            self._effects.append(Deliver(device=device, message=keep))
        for copy_id, held in self._granted.copies.items():
            if copy_id in message.copies and held.lacks:
                self._ask(copy_id, held)
        for device, early in list(self._early.items()):
            self._early[device] = []
            for opening in early:  # of the predecessor: what they wait for never comes
                if opening.message.copy_id < message.horizon:
                    self._turn_away(opening)
                else:
                    self._open(opening)

    def _fenced(self, message: words.Fenced) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Drops everything, and joins as one that is new, but for what is set aside."""
        self._aside_before = self._numbers_aside()
        self.epoch = None
        self._admitted = ()
        for copy_id, held in list(self._granted.copies.items()):
            gone = words.Gone(request=held.request, copy_id=copy_id)
            self._tell_front(held.front, gone)
        self._granted.copies.clear()
        self._early.clear()
        self.serves = {}
        self._effects.append(Begin(devices=()))
        self._join(whole=())

    def _learn_hosts(self, message: words.Hosts) -> None:
        self.hosts = message.hosts
        self._seen = self._seen.with_hosts(message)

    def _order(self, message: words.Order) -> None:
        if message.device in self.serves:
            self._effects.append(
                Deliver(device=message.device, message=message.message)
            )

    def _grant(self, message: words.Grant) -> None:
        held = self._granted.copies.get(message.copy_id)
        if held is not None:
            self._let_grow(message.copy_id, held, message.pages)

    def _open_group(self, message: words.OpenGroup) -> None:
        if message.device in self.serves:
            self.serves[message.device] = message.model
            self._since[message.device] = message.horizon
            change = Change(
                device=message.device, model=message.model, horizon=message.horizon
            )
            self._effects.append(change)
            for opening in self._early.pop(message.device, ()):
                self._open(opening)

    def _close_group(self, message: words.CloseGroup) -> None:
        if message.device in self.serves:
            self.serves[message.device] = None
            change = Change(device=message.device, model=None, horizon=NO_COPY)
            self._effects.append(change)

    def _set_aside(self, message: words.SetAside) -> None:
        if message.device in self.serves:
            change = self._aside.add if message.is_aside else self._aside.discard
            change(message.device)

    # Copies.

    def _open(self, opening: words.Opening) -> None:
        if self._is_early(opening):
            self._early.setdefault(opening.device, []).append(opening)
        elif self._may_open(opening):
            self._begin(opening)
        else:
            self._turn_away(opening)

    def _is_early(self, opening: words.Opening) -> bool:
        """Tells whether word of what the group is to serve comes by another way."""
        if opening.device not in self.serves or opening.since is None:
            return False
        return opening.since > self._since[opening.device]

    def _may_open(self, opening: words.Opening) -> bool:
        """Tells whether a copy may begin: a front end's own choice must have room."""
        model = self.serves.get(opening.device)
        if opening.since is None:
            has_room = model is not None and opening.pages <= self._free(opening.device)
            return self._is_alone and has_room
        return model is not None and opening.since == self._since[opening.device]

    def _turn_away(self, opening: words.Opening) -> None:
        request, copy_id = opening.message.request, opening.message.copy_id
        gone = words.Gone(request=request, copy_id=copy_id)
        self._tell_front(front_of(request), gone)

    def _begin(self, opening: words.Opening) -> None:
        device, message = opening.device, opening.message
        if not isinstance(message, messages.Reserve):
            self._release_older(message)
        self._granted.open(
            message.copy_id,
            request=message.request,
            device=device,
            pages=opening.pages,
            is_row=not isinstance(message, messages.Reserve),
        )
        self._effects.append(Deliver(device=device, message=message))

    def _release_older(self, message: messages.Start | messages.Commit) -> None:
        """Releases what a copy that begins to run takes the place of.

        Nobody takes tokens of it any more, and word of its release comes by another
        link, perhaps later: two copies that run here could not be told from each other.
        """
        for copy_id in self._granted.older(message.request, than=message.copy_id):
            self._release(copy_id)

    def _release(self, copy_id: CopyId) -> None:
        held = self._granted.copies[copy_id]
        release = messages.Release(
            request=held.request, copy_id=copy_id, horizon=NO_COPY
        )
        self._effects.append(Deliver(device=held.device, message=release))

    # Pages.

    def _free(self, device: DeviceGroupId) -> int:
        model = self.serves[device]
        if model is None:
            return 0
        return self._capacity_pages[model] - self._granted.pages_on(device)

    def _ask(self, copy_id: CopyId, held: Held) -> None:
        self._tell(words.Want(request=held.request, copy_id=copy_id, pages=held.wanted))

    def _let_grow(self, copy_id: CopyId, held: Held, pages: int) -> None:
        held.pages = max(held.pages, pages)
        self._effects.append(
            LetGrow(device=held.device, copy_id=copy_id, pages=held.pages)
        )

    def _serve(self, device: DeviceGroupId) -> None:
        """Grants what is wanted, oldest first; if no row can go on, the newest goes."""
        for copy_id in self._granted.lacking(device):
            held = self._granted.copies[copy_id]
            if held.wanted - held.pages <= self._free(device):
                self._let_grow(copy_id, held, held.wanted)
        stuck = self._granted.newest_of_stuck(device)
        if stuck is not None:
            self._release(stuck)

    # Sending.

    def _tell(self, message: words.FromHost) -> None:
        if not self._is_alone:
            self._effects.append(ToController(message=message))

    def _tell_front(self, front: FrontId, message: words.HostToFront) -> None:
        self._effects.append(ToFront(front=front, message=message))

    def _done(self) -> Sequence[Effect]:
        done, self._effects = self._effects, []
        return done
