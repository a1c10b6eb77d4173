"""The controller's part: who is in the fleet; what they say goes to the dispatcher.

    heard(peer, message), beat, cut  ->  coordinator  ->  Send(peer, message)
                                          roll         hosts, front ends
                                          dispatcher   placement, moves, owners

It adopts what there is when it begins: it waits until all have reported of whom others
know, or for `patience` beats, and then decides from the front ends' streams which
copies count. It knows no tokens but those that a stopped row hands over.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.adoption import Adoption
from mell_jax.scheduler.hosts.aside import AsideOfLost
from mell_jax.scheduler.hosts.dispatcher import Dispatcher, Placed
from mell_jax.scheduler.hosts.manners import Speaker, fault_of, speaker_of
from mell_jax.scheduler.hosts.operator import Operator
from mell_jax.scheduler.hosts.outbox import Effect, HangUp, Outbox, Send
from mell_jax.scheduler.hosts.roll import FrontEntry, HostEntry, PeerId, Roll
from mell_jax.scheduler.hosts.takeover import take_over
from mell_jax.scheduler.hosts.tally import Counts
from mell_jax.scheduler.hosts.wishes import Wish
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, ModelId, RequestId
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

__all__ = ["Coordinator", "Effect", "HangUp", "Send"]

PAGES_AHEAD = 8
_EPOCH_BITS = 20  # that tell the epochs of one generation from each other


class Coordinator:
    """The coordinator decides for a fleet; there is one.

    Args:
      models: what an instance of each model can hold.
      policy: by its name; it places and moves requests.
      policies: its knobs; `epoch_s` is the time between two calls of `tick`.
      patience: beats of silence after which a host or a front end is given up, and
        for which reports are waited for at the beginning.
      generation: that no controller of these hosts had before; drawn at random, as it
        need not follow on.
      least_hosts: that it waits for before it adopts.
      pages_ahead: that a row gets at most beyond what it asks for, where much is free:
        the fewer times it asks, the more streams a controller can decide for.
    """

    def __init__(
        self,
        *,
        models: Mapping[ModelId, ModelSpec],
        policy: str,
        policies: PolicyConfig,
        patience: int,
        generation: int = 0,
        least_hosts: int = 1,
        pages_ahead: int = PAGES_AHEAD,
    ) -> None:
        self.generation = generation
        self.roll = Roll(patience=patience)
        self._outbox = Outbox(self.roll)
        self._dispatcher = Dispatcher(
            models=models,
            policy=POLICIES[policy](policies),
            roll=self.roll,
            outbox=self._outbox,
            epoch_s=policies.epoch_s,
            pages_ahead=pages_ahead,
        )
        self._operator = Operator(
            self._dispatcher,
            roll=self.roll,
            outbox=self._outbox,
            policy=policy,
            policies=policies,
        )
        self._adoption: Adoption | None = Adoption(
            patience=patience, least_hosts=least_hosts, generation=generation
        )
        self._models = frozenset(models)
        self._speakers: dict[PeerId, Speaker] = {}
        self._given_up: set[str] = set()  # hosts by name, in this beat
        self._put_off: dict[PeerId, words.Join] = {}  # of these, until the next
        self._aside_of_lost = AsideOfLost()
        self._last_epoch = generation << _EPOCH_BITS
        self._last_device = 0
        self._hears: dict[type, Callable[[Any, Any], None]] = {
            words.Leave: self._leave,
            words.Told: self._told,
            words.Want: lambda _, message: self._dispatcher.want(message),
            words.GroupOpened: self._group_opened,
            words.GroupFailed: self._group_failed,
            words.LinkMeasured: lambda _, message: self._dispatcher.measure(message),
            words.PeerCut: self._peer_cut,
            words.Ask: lambda _, message: self._dispatcher.arrive(message),
            words.Over: lambda _, message: self._dispatcher.end(message.request),
            words.Broken: lambda _, message: self._dispatcher.start_again(message),
            words.Reached: self._reached,
            words.Unreachable: self._unreachable,
            **dict.fromkeys(get_args(Wish), self._wish),
        }

    @property
    def is_adopting(self) -> bool:
        """Returns whether it still waits for reports, and decides nothing."""
        return self._adoption is not None

    @property
    def machine(self) -> Machine:
        """Returns the placement machine; to be read."""
        return self._dispatcher.machine

    @property
    def controller(self) -> Controller:
        """Returns the owner records; to be read."""
        return self._dispatcher.controller

    @property
    def requests(self) -> Mapping[RequestId, Placed]:
        """Returns the requests that are not over."""
        return self._dispatcher.requests

    @property
    def policy(self) -> str:
        """Returns the name of the policy that decides now."""
        return self._operator.policy

    @property
    def first_epoch(self) -> Epoch:
        """Returns an epoch below all those that it admits hosts under."""
        return Epoch(self.generation << _EPOCH_BITS)

    # -- for views -----------------------------------------------------------------

    def counts(self) -> Counts:
        """Returns what it has counted so far."""
        links = self._dispatcher.carriage
        return self._dispatcher.tally.counts(
            deferred=links.deferred, violations=links.violations
        )

    def is_open(self, device: DeviceGroupId) -> bool:
        """Returns whether an instance there is ready."""
        return self._dispatcher.carriage.is_open(device)

    def link_speeds(self) -> Iterator[tuple[DeviceGroupId, DeviceGroupId, float]]:
        """Yields the bytes per second of links that were measured."""
        return self._dispatcher.carriage.speeds()

    # -- what happens --------------------------------------------------------------

    def heard(self, peer: PeerId, message: Any, *, now_s: float) -> Sequence[Effect]:
        """Takes a message of a host or a front end.

        The link of who says what is not its to say is hung up: others are not harmed.

        Args:
          message: one of `words.FromHost` or `words.FromFront`.
          now_s: seconds of a clock that does not go back.
        """
        self.roll.heard(peer)
        self._set_clock(now_s)
        speaker = self._speakers.get(peer) or self._meet(peer, message)
        fault = fault_of(message, speaker=speaker, models=self._models)
        if fault is not None:
            self._outbox.hang_up(peer, reason=fault)
            self._lose_peer(peer)
            return self._settle()
        act = self._hears.get(type(message))
        entry = self.roll.who(peer)  # None while it adopts, and of who was given up
        match message:
            case _ if act is not None and entry is not None:
                act(entry, message)
            case words.Join():
                self._join(peer, message)
            case words.Enter():
                self._enter(peer, message)
            case words.Beat():
                pass
            case _ if isinstance(message, get_args(Wish)):
                self._operator.put_off(peer, message)
            case _ if self._adoption is not None:
                self._adoption.hear(peer, message)
        return self._settle()

    def cut(self, peer: PeerId, *, now_s: float) -> Sequence[Effect]:
        """A link has ended."""
        self._set_clock(now_s)
        self._lose_peer(peer)
        return self._settle()

    def beat(self, *, now_s: float) -> Sequence[Effect]:
        """Counts a beat of silence for everybody, once all that was said is heard."""
        self._set_clock(now_s)
        for peer in self.roll.beat():
            self._outbox.hang_up(peer)
            self._lose_peer(peer)
        if self._adoption is not None:
            self._adoption.beat()
            self._adopt_if_ready()
        self._admit_again()
        self._outbox.send_all(words.Beat())
        return self._settle()

    def tick(self, *, now_s: float) -> Sequence[Effect]:
        """Ends an epoch of placement: it may consolidate, and links have room again."""
        self._set_clock(now_s)
        self._dispatcher.renew_links()
        if self._adoption is None:
            self._dispatcher.decide(events.Tick(now_s=now_s))
        return self._settle()

    def wake(self, *, now_s: float) -> Sequence[Effect]:
        """Lets placement decide about requests that it has let wait until now."""
        self._set_clock(now_s)
        if self._adoption is None:
            self._dispatcher.decide(events.Wake())
        return self._settle()

    # -- who comes -----------------------------------------------------------------

    def _meet(self, peer: PeerId, message: Any) -> Speaker | None:
        """Notes who is at the other end of a link, once it says so."""
        speaker = speaker_of(message)
        if speaker is not None:
            self._speakers[peer] = speaker
        return speaker

    def _join(self, peer: PeerId, join: words.Join) -> None:
        if self._adoption is not None:
            self._hang_up(self._adoption.join(peer, join))
            self._adopt_if_ready()
            return
        for before in self.roll.named(join.name):  # whose end is yet to be heard
            self._lose_host(before)
            if before.peer != peer:
                self._hang_up([before.peer])
        if join.name in self._given_up:
            self._put_off[peer] = join
        else:
            self._admit({peer: join})

    def _admit_again(self) -> None:
        """Lets hosts in that were given up: once a beat, as they may be again."""
        self._given_up.clear()
        joins, self._put_off = self._put_off, {}
        self._admit(joins)

    def _admit(self, joins: Mapping[PeerId, words.Join]) -> None:
        """Lets hosts in that begin empty, whatever they had before."""
        known = set(self.roll.hosts)
        for peer, join in joins.items():
            self._number(peer, join)
        came = [host for epoch, host in self.roll.hosts.items() if epoch not in known]
        if came:
            self._tell_change(came=came)
            self._serve_reached(came)

    def _number(self, peer: PeerId, join: words.Join) -> None:
        self._last_epoch += 1
        first = self._last_device + 1
        self._last_device += join.num_groups
        devices = tuple(map(DeviceGroupId, range(first, self._last_device + 1)))
        host = self.roll.admit(
            Epoch(self._last_epoch), name=join.name, peer=peer, devices=devices
        )
        host.prefill_tokens_per_s = join.prefill_tokens_per_s
        host.is_leaving = join.is_leaving
        self._outbox.send(peer, words.Admit(epoch=host.epoch, devices=devices))
        for change in self._aside_of_lost.restore(host, join):
            self._outbox.send(peer, change)

    def _enter(self, peer: PeerId, enter: words.Enter) -> None:
        if self._adoption is not None:
            self._hang_up(self._adoption.enter(peer, enter))
            self._adopt_if_ready()
            return
        before = self.roll.fronts.get(enter.front)
        if before is not None:
            self._lose_front(before)
            self._hang_up([before.peer])
        self.roll.enter(enter.front, peer=peer)
        self.roll.note_reached(enter.hosts, front=enter.front)
        self._outbox.send(peer, words.Hosts(hosts=self.roll.told()))
        for stream in enter.streams:
            disowned = words.Disowned(request=stream.ask.request)
            self._outbox.send(peer, disowned)
            self._dispatcher.arrive(stream.ask)

    def _serve_reached(self, hosts: Iterable[HostEntry]) -> None:
        """Takes those into the books that front ends have reached."""
        for host in hosts:
            is_due = not (host.is_serving or host.is_leaving)
            if not (is_due and self.roll.is_answered(host)):
                continue
            host.is_serving = True
            for device in host.devices:
                self._dispatcher.add_device(
                    device,
                    prefill_tokens_per_s=host.prefill_tokens_per_s,
                    is_aside=device in host.aside,
                )

    def _tell_hosts(self) -> None:
        self._outbox.send_all(words.Hosts(hosts=self.roll.told()))

    def _tell_change(
        self, *, came: Sequence[HostEntry] = (), gone: Sequence[Epoch] = ()
    ) -> None:
        """Tells all who is new and who is gone; who is new itself learns of all."""
        new = {host.peer for host in came}
        for peer in new:
            self._outbox.send(peer, words.Hosts(hosts=self.roll.told()))
        told = tuple(host.told for host in came)
        self._outbox.send_all(words.HostsChanged(came=told, gone=tuple(gone)), but=new)

    # -- what there was before -----------------------------------------------------

    def _adopt_if_ready(self) -> None:
        adoption = self._adoption
        if adoption is None or not adoption.is_complete:
            return
        self._adoption = None
        adopted = adoption.decide()
        self._last_device = adopted.seen.device
        take_over(
            adopted, roll=self.roll, dispatcher=self._dispatcher, outbox=self._outbox
        )
        for join, peer in adopted.strangers:
            self._number(peer, join)
        self._tell_hosts()
        self._serve_reached(self.roll.hosts.values())
        for ask in adopted.waiting:
            disowned = words.Disowned(request=ask.request)
            self._outbox.send_front(ask.request, disowned)
            self._dispatcher.arrive(ask)

    def _hang_up(self, others: Iterable[PeerId]) -> None:
        """Ends what may be dead links; if one is not, its end comes again over another.

        Which one is older is not known: what was said over a link that is cut may come
        after what is said over the next one.
        """
        for peer in others:
            self._outbox.hang_up(peer)

    # -- who goes ------------------------------------------------------------------

    def _lose_peer(self, peer: PeerId) -> None:
        self._put_off.pop(peer, None)
        self._speakers.pop(peer, None)
        if self._adoption is not None:
            self._adoption.forget(peer)
            self._adopt_if_ready()
        entry = self.roll.who(peer)
        match entry:
            case HostEntry():
                self._lose_host(entry)
            case FrontEntry():
                self._lose_front(entry)
        self.roll.forget(peer)

    def _lose_host(self, host: HostEntry) -> None:
        """Gives a host up: its requests start again elsewhere."""
        self._aside_of_lost.note(host)
        self.roll.remove(host)
        self._tell_change(gone=[host.epoch])
        if host.is_serving:
            self._dispatcher.lose_devices(host.devices)

    def _lose_front(self, front: FrontEntry) -> None:
        self.roll.forget(front.peer)
        self._dispatcher.end_all(front.front)
        for host in filter(self.roll.is_cut_off, list(self.roll.hosts.values())):
            self._give_up(host)  # for those that are left
        self._serve_reached(self.roll.hosts.values())

    # -- what is said --------------------------------------------------------------

    def _told(self, host: HostEntry, message: words.Told) -> None:
        if message.device in host.devices:
            self._dispatcher.told(message.message)

    def _leave(self, host: HostEntry, _: words.Leave) -> None:
        host.is_leaving = True
        if host.is_serving:
            self._dispatcher.give_back(host.devices)

    def _group_opened(self, host: HostEntry, message: words.GroupOpened) -> None:
        if message.device in host.devices:
            self._dispatcher.device_opened(message)

    def _group_failed(self, host: HostEntry, message: words.GroupFailed) -> None:
        if message.device in host.devices:
            self.roll.drop_device(host, message.device)
            if host.is_serving:
                self._dispatcher.lose_devices([message.device])

    def _peer_cut(self, host: HostEntry, message: words.PeerCut) -> None:
        other = self.roll.hosts.get(message.epoch)
        theirs = other.devices if other is not None else ()
        self._dispatcher.abort_between((*host.devices, *theirs))

    def _reached(self, front: FrontEntry, message: words.Reached) -> None:
        host = self.roll.hosts.get(message.epoch)
        if host is not None:
            self.roll.reach(host, front.front)
            self._serve_reached([host])

    def _unreachable(self, front: FrontEntry, message: words.Unreachable) -> None:
        """Has a front end's requests go elsewhere; if most have no link, all go."""
        host = self.roll.hosts.get(message.epoch)
        if host is None:
            return
        self.roll.miss(host, front.front)
        if self.roll.is_cut_off(host):
            self._give_up(host)
            return
        self._dispatcher.part(front.front, host.devices)
        self._serve_reached([host])

    def _wish(self, front: FrontEntry, wish: Wish) -> None:
        self._operator.hear(front.peer, wish)

    def _give_up(self, host: HostEntry) -> None:
        """Gives a host up that is there, but of no use."""
        fenced = words.Fenced(reason="most front ends have no link to it")
        self._outbox.send(host.peer, fenced)
        self._given_up.add(host.name)
        self._lose_host(host)

    def _settle(self) -> Sequence[Effect]:
        self._dispatcher.settle()
        return self._outbox.take()

    def _set_clock(self, now_s: float) -> None:
        ledger = self.machine.ledger
        ledger.now_s = max(ledger.now_s, now_s)
