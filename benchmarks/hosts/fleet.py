"""This fleet of hosts and front ends answers a coordinator at once, without work.

    coordinator --- Start, Begin, Grant, Open ---> answers() ---> Started, Stopped, ...

It keeps of a stream where it runs and how many pages it has, and nothing of tokens.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator, Send
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import (
    FRONT_BITS,
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    ModelId,
    RequestId,
    front_of,
)
from mell_jax.scheduler.migration import messages

Said = tuple[PeerId, Any]
"""Somebody says something."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A copy of a stream runs somewhere."""

    copy_id: CopyId
    device: DeviceGroupId
    pages: int


class Fleet:
    """The fleet says what hosts and front ends would, and counts what is asked of it.

    Args:
      coordinator: new; the fleet answers it.
      hear: passes one message to the coordinator, and returns what it has sent.
    """

    def __init__(
        self, coordinator: Coordinator, *, hear: Callable[[Said], list[Any]]
    ) -> None:
        self.streams: dict[RequestId, Running] = {}
        self.live: list[RequestId] = []  # that were asked for and are not over
        self.sent = 0
        self.moves = 0  # that have begun
        self._coordinator = coordinator
        self._hear = hear
        self._host_peers: dict[DeviceGroupId, PeerId] = {}
        self._front_peers: dict[FrontId, PeerId] = {}
        self._hosts_known: set[Epoch] = set()  # that front ends have reached
        self._numbers = 0
        self._queue: deque[Said] = deque()
        self._answers: dict[type, Callable[[PeerId, Any], Iterator[Said]]] = {
            words.Admit: self._admitted,
            words.Hosts: self._learned,
            words.Relayed: self._opened,
            words.Order: self._ordered,
            words.OpenGroup: self._group_opened,
            words.Grant: self._granted,
        }

    def say(self, peer: PeerId, message: Any) -> None:
        """Says something, and answers whatever follows from it."""
        self._queue.append((peer, message))
        self._answer_all()

    def take(self, todo: list[Any]) -> None:
        """Answers what the coordinator has sent, and whatever follows from that."""
        self._file(todo)
        self._answer_all()

    def _answer_all(self) -> None:
        while self._queue:
            self._file(self._hear(self._queue.popleft()))

    def _file(self, todo: list[Any]) -> None:
        for effect in todo:
            assert isinstance(effect, Send), f"{effect}: nobody was silent"
            self.sent += 1
            answer = self._answers.get(type(effect.message))
            if answer is not None:
                self._queue.extend(answer(effect.to, effect.message))

    # What there is.

    def join(self, *, hosts: int, groups: int, fronts: int) -> None:
        """Hosts and front ends report; the coordinator adopts them when it beats."""
        for number in range(1, fronts + 1):
            peer = self._front_peers[FrontId(number)] = PeerId(number)
            self.say(peer, words.Enter(front=FrontId(number)))
        for number in range(hosts):
            join = words.Join(name=f"host {number}", num_groups=groups)
            self.say(PeerId(1 + fronts + number), join)

    def peer_of(self, device: DeviceGroupId) -> PeerId:
        """Returns the link of a device's host."""
        return self._host_peers[device]

    def ask(self, *, model: ModelId, prompt: int, pages: int) -> None:
        """A request comes to one of the front ends."""
        self._numbers += 1
        front = FrontId(1 + self._numbers % len(self._front_peers))
        request = RequestId((front << FRONT_BITS) + self._numbers)
        self.live.append(request)
        ask = words.Ask(
            request=request,
            model=model,
            prompt=prompt,
            known=prompt,
            pages=pages,
            peak_pages=None,
        )
        self.say(self._front_peers[front], ask)

    def end(self, index: int) -> None:
        """The stream of that index in `live` is complete."""
        request, self.live[index] = self.live[index], self.live[-1]
        self.live.pop()
        self.streams.pop(request, None)
        self.say(self._front_peers[front_of(request)], words.Over(request=request))

    def want(self, request: RequestId) -> None:
        """A row asks for one page more."""
        running = self.streams[request]
        want = words.Want(
            request=request, copy_id=running.copy_id, pages=running.pages + 1
        )
        self.say(self._host_peers[running.device], want)

    # Answers.

    def _admitted(self, peer: PeerId, admit: words.Admit) -> Iterator[Said]:
        for device in admit.devices:
            self._host_peers[device] = peer
        yield from ()

    def _learned(self, peer: PeerId, hosts: words.Hosts) -> Iterator[Said]:
        if peer != PeerId(1):
            return  # the others would say the same
        for host in hosts.hosts:
            if host.epoch not in self._hosts_known:
                self._hosts_known.add(host.epoch)
                for front in self._front_peers.values():
                    yield front, words.Reached(epoch=host.epoch)

    def _group_opened(self, peer: PeerId, order: words.OpenGroup) -> Iterator[Said]:
        opened = words.GroupOpened(device=order.device, model=order.model, took_s=1.0)
        yield peer, opened

    def _granted(self, peer: PeerId, grant: words.Grant) -> Iterator[Said]:
        running = self.streams.get(grant.request)
        if running is not None and running.copy_id == grant.copy_id:
            running.pages = grant.pages
        yield from ()

    def _opened(self, _: PeerId, relayed: words.Relayed) -> Iterator[Said]:
        message, device = relayed.message, relayed.device
        request, copy_id = message.request, message.copy_id
        if isinstance(message, messages.Reserve):
            answer: messages.ToController = messages.Reserved(
                request=request, copy_id=copy_id, cached=0
            )
        else:
            self.streams[request] = Running(
                copy_id=copy_id, device=device, pages=relayed.pages
            )
            answer = messages.Started(request=request, copy_id=copy_id)
        yield self._host_peers[device], words.Told(device=device, message=answer)

    def _ordered(self, peer: PeerId, order: words.Order) -> Iterator[Said]:
        message = order.message
        match message:
            case messages.Begin():
                self.moves += 1
                yield peer, words.Told(device=order.device, message=_stopped(message))
                ready = messages.Ready(
                    request=message.request, copy_id=message.to_copy_id
                )
                target = message.target
                yield (
                    self._host_peers[target],
                    words.Told(device=target, message=ready),
                )
            case messages.Release():
                released = messages.Released(
                    request=message.request, copy_id=message.copy_id
                )
                yield peer, words.Told(device=order.device, message=released)
            case messages.Resume():
                resumed = messages.Resumed(
                    request=message.request,
                    copy_id=message.copy_id,
                    to_copy_id=message.to_copy_id,
                )
                yield peer, words.Told(device=order.device, message=resumed)


def _stopped(begin: messages.Begin) -> messages.Stopped:
    return messages.Stopped(
        request=begin.request,
        copy_id=begin.copy_id,
        to_copy_id=begin.to_copy_id,
        since=begin.known,
        tail=(0,) * 16,
    )
