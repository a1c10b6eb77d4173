"""A front end's part: streams, the openings that it passes on, and placing when alone.

    client -> ask ---> controller --- Relayed ---> relay --- Opening ---> host
              take <---------------- rows ---------------------------------'

It is the fence of its requests: it takes tokens of one copy, which the controller names
or, while there is none, the relay itself. What it knows of hosts is who they are, and
how much room they said they had.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.passed import Passed
from mell_jax.scheduler.hosts.relay_effects import (
    Effect,
    Fail,
    Leave,
    Pass,
    Reach,
    ToController,
    ToHost,
)
from mell_jax.scheduler.hosts.stream import Place, Stream
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

__all__ = [
    "Effect",
    "Fail",
    "Leave",
    "Pass",
    "Reach",
    "Relay",
    "ToController",
    "ToHost",
]


class Relay:
    """The relay has the streams of one front end.

    Args:
      front: the front end.
      slot: from 1 on, below `STRIDE`, not that of another front end: what is given out
        in copy ids while there is no controller.
      pages_of: pages of a pool that so many tokens of a model need.
    """

    def __init__(
        self,
        front: FrontId,
        *,
        slot: int,
        pages_of: Callable[[ModelId, int], int],
    ) -> None:
        if not (1 <= slot < words.STRIDE):
            raise ValueError(f"slot must be in [1, {words.STRIDE}), got {slot}")
        self.streams: dict[RequestId, Stream] = {}
        self._front = front
        self._slot = slot
        self._pages_of = pages_of
        self._is_alone = True
        self._seen = words.NOTHING_SEEN
        self._hosts: dict[Epoch, words.Host] = {}
        self._reaching: set[Epoch] = set()
        self._reached: set[Epoch] = set()
        self._early: dict[Epoch, list[words.FrontToHost]] = {}  # before it is reached
        self._passed = Passed()
        self._rooms: dict[tuple[Epoch, DeviceGroupId], words.Room] = {}
        self._effects: list[Effect] = []
        self._hears: dict[type, Callable[[Any], None]] = {
            words.Hosts: self._learn_hosts,
            words.HostsChanged: self._learn_change,
            words.Relayed: self._pass_on,
            words.Disowned: self._disown,
            words.Refused: self._refuse,
            words.Beat: lambda _: None,
        }

    # -- the client's side ---------------------------------------------------------

    def ask(self, ask: words.Ask) -> Sequence[Effect]:
        """Opens a stream."""
        stream = self.streams[ask.request] = Stream(ask)
        if self._is_alone:
            self._place(stream)
        else:
            self._tell(ask)
        return self._done()

    def close(self, request: RequestId) -> Sequence[Effect]:
        """Ends a stream: it is complete, or its client has left."""
        stream = self.streams.pop(request, None)
        if stream is not None:
            self._end(stream)
        return self._done()

    # -- the controller's side -----------------------------------------------------

    def meet_controller(self) -> Sequence[Effect]:
        """Tells a controller, to which there is a link now, what there is."""
        self._is_alone = False
        self._tell(
            words.Enter(
                front=self._front,
                streams=tuple(self._report(stream) for stream in self.streams.values()),
                hosts=tuple(self._reached),
                seen=self._seen,
            )
        )
        return self._done()

    def cut_controller(self) -> Sequence[Effect]:
        """Goes on alone; what the controller may not have had released it drops."""
        self._is_alone = True
        self._drop_unwanted()
        self._place_waiting()
        return self._done()

    def hear_controller(self, message: words.ToFront) -> Sequence[Effect]:
        """Does what the controller says."""
        self._hears[type(message)](message)
        return self._done()

    # -- the hosts' side -----------------------------------------------------------

    def beat(self) -> Sequence[Effect]:
        """Tries again to reach the hosts of the fleet to which there is no link."""
        self._reach_all()
        return self._done()

    def reached(self, epoch: Epoch) -> Sequence[Effect]:
        """There is a link to a host."""
        if epoch in self._hosts:
            self._reaching.discard(epoch)
            self._reached.add(epoch)
            self._tell(words.Reached(epoch=epoch))
            for message in self._early.pop(epoch, ()):
                self._tell_host(epoch, message)
        return self._done()

    def cut_host(self, epoch: Epoch) -> Sequence[Effect]:
        """There is no link to a host: what it had for this front end is lost."""
        self._drop_host(epoch)
        self._tell(words.Unreachable(epoch=epoch))
        return self._done()

    def hear_host(self, epoch: Epoch, message: words.HostToFront) -> Sequence[Effect]:
        """Takes tokens, or learns of room."""
        match message:
            case words.Row():
                self._take(epoch, message)
            case words.Gone():
                self._miss(epoch, message)
            case words.Rooms():
                for room in message.rooms:
                    self._rooms[epoch, room.device] = room
                if self._is_alone:
                    self._place_waiting()
            case words.Beat():
                pass
        return self._done()

    def _report(self, stream: Stream) -> words.StreamReport:
        place = stream.latest
        return words.StreamReport(
            ask=self._ask_now(stream),
            copy_id=place.copy_id if place is not None else None,
            epoch=place.epoch if place is not None else None,
            device=place.device if place is not None else None,
        )

    def _ask_now(self, stream: Stream) -> words.Ask:
        """Returns what a stream asks for with the tokens that it has by now."""
        ask, known = stream.ask, stream.known
        pages = max(ask.pages, self._pages_of(ask.model, known))
        return replace(ask, known=known, pages=pages)

    # What the controller says.

    def _learn_hosts(self, message: words.Hosts) -> None:
        hosts = {host.epoch: host for host in message.hosts}
        for epoch in [epoch for epoch in self._hosts if epoch not in hosts]:
            self._drop_host(epoch)
            self._effects.append(Leave(epoch=epoch))
        self._hosts = hosts
        self._seen = self._seen.with_hosts(message)
        self._reach_all()

    def _learn_change(self, message: words.HostsChanged) -> None:
        self._learn_hosts(message.applied(self._hosts.values()))

    def _reach_all(self) -> None:
        for host in self._hosts.values():
            if host.epoch not in self._reached | self._reaching:
                self._reaching.add(host.epoch)
                self._effects.append(Reach(host=host))

    def _pass_on(self, order: words.Relayed) -> None:
        opening, message = order.message, order.message
        self._seen = self._seen.with_copy(message.copy_id)
        stream = self.streams.get(message.request)
        if stream is None:
            return  # it is over, as the controller is about to hear
        place = Place(copy_id=message.copy_id, epoch=order.epoch, device=order.device)
        if order.epoch not in self._reached | self._reaching:
            if not isinstance(message, messages.Reserve):
                stream.follow(None)
            return  # there is no link, as the controller is about to hear
        match message:
            case messages.Start():
                stream.follow(place)
                opening = replace(message, known=stream.known)
            case messages.Commit():
                self._follow_from(stream, message, place)
            case messages.Reserve():
                pass
        self._open(
            order.epoch,
            words.Opening(
                device=order.device,
                since=order.since,
                pages=order.pages,
                message=opening,
            ),
        )

    def _follow_from(
        self, stream: Stream, commit: messages.Commit, place: Place
    ) -> None:
        stream.follow_from(commit.since + len(commit.tail) - stream.ask.prompt, place)
        self._pass_all(stream.release())
        if any(
            older is None or older.epoch not in self._reached
            for older in stream.awaited
        ):
            self._break(stream)

    def _disown(self, message: words.Disowned) -> None:
        stream = self.streams.get(message.request)
        if stream is not None:
            stream.follow(None)

    def _refuse(self, message: words.Refused) -> None:
        if self.streams.pop(message.request, None) is not None:
            self._effects.append(Fail(request=message.request, reason=message.reason))

    # What hosts say.

    def _take(self, epoch: Epoch, row: words.Row) -> None:
        stream = self.streams.get(row.request)
        if stream is not None:
            self._pass_all(stream.take(row, epoch=epoch))

    def _pass_all(self, rows: Iterator[words.Row]) -> None:
        self._effects += [Pass(row=row) for row in rows]

    def _miss(self, epoch: Epoch, gone: words.Gone) -> None:
        """If a copy has gone that should run, the controller knows, if there is one."""
        self._passed.close(epoch, gone.copy_id)
        stream = self.streams.get(gone.request)
        place = stream.latest if stream is not None else None
        if stream is None or place is None:
            return
        if (place.copy_id, place.epoch) != (gone.copy_id, epoch):
            return
        self._rooms.pop((epoch, place.device), None)  # until it speaks of room again
        if self._is_alone:
            stream.follow(None)
        else:
            self._break(stream)

    def _drop_host(self, epoch: Epoch) -> None:
        self._reaching.discard(epoch)
        self._reached.discard(epoch)
        self._early.pop(epoch, None)
        self._passed.lose(epoch)
        for key in [key for key in self._rooms if key[0] == epoch]:
            del self._rooms[key]
        for stream in self.streams.values():
            latest = stream.latest
            if latest is not None and latest.epoch == epoch:
                stream.follow(None)  # the controller is about to lose the host, too
            elif any(older and older.epoch == epoch for older in stream.awaited):
                self._break(stream)
        if self._is_alone:
            self._place_waiting()

    def _break(self, stream: Stream) -> None:
        """Has a stream begin again whose older copy's tokens will never come."""
        places, latest = stream.places, stream.latest
        assert latest is not None
        stream.follow(None)
        self._tell(words.Broken(request=stream.ask.request, copy_id=latest.copy_id))
        if self._is_alone:
            for place in places:
                self._drop_copy(stream, place)
            self._place(stream)

    # Alone.

    def _place_waiting(self) -> None:
        for stream in list(self.streams.values()):
            if stream.latest is None:
                self._place(stream)

    def _place(self, stream: Stream) -> None:
        """Places a request where there is most room, while there is no controller."""
        ask = self._ask_now(stream)
        rooms = [
            (room.pages, -epoch, -device)
            for (epoch, device), room in self._rooms.items()
            if room.model == ask.model
            and room.pages >= ask.pages
            and epoch in self._reached
        ]
        if not rooms:
            return  # it waits for word of room
        _, epoch, device = max(rooms)
        place = Place(
            copy_id=self._new_copy_id(),
            epoch=Epoch(-epoch),
            device=DeviceGroupId(-device),
        )
        room = self._rooms[place.epoch, place.device]
        self._rooms[place.epoch, place.device] = replace(
            room, pages=room.pages - ask.pages
        )
        stream.follow(place)
        start = messages.Start(
            request=ask.request,
            copy_id=place.copy_id,
            known=ask.known,
            horizon=NO_COPY,
        )
        opening = words.Opening(
            device=place.device, since=None, pages=ask.pages, message=start
        )
        self._open(place.epoch, opening)

    def _new_copy_id(self) -> CopyId:
        round_ = self._seen.copy_id // words.STRIDE + 1
        copy_id = CopyId(round_ * words.STRIDE + self._slot)
        self._seen = self._seen.with_copy(copy_id)
        return copy_id

    # Sending.

    def _end(self, stream: Stream) -> None:
        self._tell(words.Over(request=stream.ask.request))
        if not self._is_alone:
            return  # the controller has its copies released
        for place in stream.places:
            self._drop_copy(stream, place)

    def _open(self, epoch: Epoch, opening: words.Opening) -> None:
        self._passed.open(epoch, opening.message)
        self._tell_host(epoch, opening)

    def _drop_copy(self, stream: Stream, place: Place) -> None:
        drop = words.Drop(request=stream.ask.request, copy_id=place.copy_id)
        self._tell_host(place.epoch, drop)

    def _drop_unwanted(self) -> None:
        for copy in self._passed.unwanted(self.streams):
            self._tell_host(copy.epoch, copy.drop)

    def _tell(self, message: words.FromFront) -> None:
        if not self._is_alone:
            self._effects.append(ToController(message=message))

    def _tell_host(self, epoch: Epoch, message: words.FrontToHost) -> None:
        if epoch in self._reached:
            self._effects.append(ToHost(epoch=epoch, message=message))
        elif epoch in self._hosts:
            self._early.setdefault(epoch, []).append(message)

    def _done(self) -> Sequence[Effect]:
        done, self._effects = self._effects, []
        return done
