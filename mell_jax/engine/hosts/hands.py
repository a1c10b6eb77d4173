"""The hands carry out what a host's desk says: instances, copies, pages, messages.

    desk (decides what to tell whom)  ->  hands  ->  FleetInstance, Roster
                                            '----->  Wires

They are to a host what the conductor is to a fleet of one process, without decisions.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast, final

import numpy as np

from mell_jax.engine.fleet import news
from mell_jax.engine.fleet.fleet_instance import FleetInstance, Payload
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.engine.fleet.roster import Roster
from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.fleet.transport import Transport
from mell_jax.engine.frames import EngineInfo, StepFrame
from mell_jax.engine.hosts.named_pool import NamedPool
from mell_jax.engine.hosts.wires import HostFrame, OpeningParcel, Parcel, Wires
from mell_jax.engine.intake import resolve
from mell_jax.scheduler.hosts import desk as told
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.desk import Desk
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    FrontId,
    ModelId,
    RequestId,
    Serial,
)
from mell_jax.scheduler.migration import messages
from mell_jax.worker.group import DeviceGroup

Result = TypeVar("Result")
PIECE_PAGES = 64
"""A move begins with so many pages at once: a few MiB of a small model's, 128 of a
large one's."""


class _Context:
    """This is all that one instance needs of the host."""

    def __init__(self, hands: "HostHands", device: DeviceGroupId) -> None:
        self._hands = hands
        self._device = device

    def state(self, request: RequestId) -> RequestState | None:
        return self._hands.states.get(request)

    def group_of(self, device: DeviceGroupId) -> DeviceGroup | None:
        return self._hands.group_of(device)

    def is_elsewhere(self, device: DeviceGroupId) -> bool:
        return self._hands.is_elsewhere(device)

    def post(
        self, to: DeviceGroupId, message: messages.Message, payload: Payload
    ) -> None:
        self._hands.post(self._device, to=to, message=message, payload=payload)

    def freed(self, copy_id: CopyId) -> None:
        self._hands.freed(copy_id)


@final
class HostHands:
    """The hands have the instances of one host.

    Args:
      desk: says what to do.
      wires: take what is for others.
      pool: of the host's own device groups.
      infos: of the models.
      transports: of each model's pages between the host's own groups.
      clock: seconds.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        wires: Wires,
        pool: InstancePool,
        infos: Sequence[EngineInfo],
        transports: Mapping[ModelId, Transport],
        clock: Callable[[], float],
        page_tokens: int,
    ) -> None:
        self.desk = desk
        self.tally = FleetTally()
        self.states: dict[RequestId, RequestState] = {}
        self._wires = wires
        self._pool = NamedPool(pool)
        self._infos = {ModelId(info.model_name): info for info in infos}
        self._roster = Roster(
            self._pool,
            transports=transports,
            clock=clock,
            page_tokens=page_tokens,
            piece_pages=PIECE_PAGES,
        )
        self._copies: dict[CopyId, RequestId] = {}
        self._told: dict[RequestId, tuple[CopyId, int]] = {}  # row, tokens said
        self._post: deque[tuple[DeviceGroupId, messages.Message, Payload]] = deque()
        self._does: dict[type, Callable[[Any], None]] = {
            told.ToController: lambda e: wires.to_controller(e.message),
            told.ToFront: lambda e: wires.to_front(e.front, e.message),
            told.Deliver: self._deliver,
            told.LetGrow: self._let_grow,
            told.Change: self._change,
            told.Begin: self._begin,
        }

    # -- for the pace (`pace.Hands`) -------------------------------------------------

    @property
    def instances(self) -> Mapping[DeviceGroupId, FleetInstance]:
        return self._roster.instances

    @property
    def is_opening(self) -> bool:
        return self._roster.is_opening

    def can_lose(self, device: DeviceGroupId) -> bool:
        """Returns True: whatever is lost here starts again elsewhere."""
        return True

    def guard(self, instance: FleetInstance, do: Callable[[], Result]) -> Result | None:
        """Does something on a device; if that raises, the device is lost."""
        try:
            return do()
        except Exception as error:  # the edge: whatever a device raises, others go on
            self._fence(instance.device, error)
            return None

    def ask_for_pages(self, instances: Iterable[FleetInstance]) -> None:
        for instance in instances:
            for serial, pages in instance.inner.grants.wanting():
                self.do(self.desk.wants(CopyId(serial), pages=pages))
        self.settle()

    def see(self, frame: StepFrame) -> None:
        self.tally.see(frame)

    def forget(self, request: RequestId) -> None:
        """Does nothing: a row that has ended is released when its stream is over."""

    # -- for instances ---------------------------------------------------------------

    def group_of(self, device: DeviceGroupId) -> DeviceGroup | None:
        return self._roster.groups[device] if device in self.instances else None

    def is_elsewhere(self, device: DeviceGroupId) -> bool:
        """Returns whether a device group is another host's."""
        return device not in self.desk.serves

    def post(
        self,
        device: DeviceGroupId,
        *,
        to: DeviceGroupId,
        message: messages.Message,
        payload: Payload,
    ) -> None:
        """Passes on what `device` says."""
        if payload is not None:
            self.tally.send(payload.nbytes)
        if to == messages.CONTROLLER:
            said = cast(messages.ToController, message)
            self.do(self.desk.says(device, said))
        elif self.is_elsewhere(to):
            self._send_away(to, message, payload)
        else:
            self._post.append((to, message, payload))

    def freed(self, copy_id: CopyId) -> None:
        """A copy holds nothing any more."""
        request = self._copies.pop(copy_id, None)
        if request is not None:
            if request in self._told and self._told[request][0] == copy_id:
                del self._told[request]
            if request not in self._copies.values():
                self.states.pop(request, None)
        self.do(self.desk.freed(copy_id))

    # -- for the engine --------------------------------------------------------------

    def do(self, todo: Sequence[told.Effect]) -> None:
        """Carries out what the desk says, in order."""
        for effect in todo:
            self._does[type(effect)](effect)

    def open(self, front: FrontId, parcel: OpeningParcel) -> None:
        """Takes an opening, with its request."""
        opening, message = parcel.opening, parcel.opening.message
        self._copies[message.copy_id] = message.request
        state = self.states.get(message.request)
        if state is None:
            state = self.states[message.request] = self._state(parcel)
        state.pages = max(state.pages, opening.pages)
        prompt = len(parcel.submit.prompt)
        match message:
            case messages.Start():
                state.tokens = parcel.tokens
                self._told[message.request] = (message.copy_id, message.known - prompt)
            case messages.Commit():
                count = message.since + len(message.tail) - prompt
                self._told[message.request] = (message.copy_id, count)
            case messages.Reserve():
                pass
        self.do(self.desk.hear_front(front, opening))
        self.settle()

    def deliver(self, parcel: Parcel) -> None:
        """Takes what a device of another host says."""
        payload = parcel.pages if parcel.pages is not None else parcel.tokens
        self._post.append((parcel.device, parcel.message, payload))
        self.settle()

    def settle(self) -> None:
        """Passes messages between the host's own devices on until there are none."""
        while self._post:
            to, message, payload = self._post.popleft()
            instance = self.instances.get(to)
            if instance is not None:
                said = cast(messages.ToEndpoint, message)
                self.guard(instance, partial(instance.deliver, said, payload))

    def see_opened(self) -> None:
        """Tells the controller of instances that have become ready."""
        for instance, took_s in self._roster.opened():
            self.tally.activation_s += took_s
            news.tell_opened(instance.device, instance.model, took_s=took_s)
            self.do(self.desk.opened(instance.device, instance.model, took_s=took_s))

    def hold_back(self) -> None:
        """Has instances launch nothing ahead while a row moves from or to them."""
        for instance in self.instances.values():
            instance.inner.lands_first = instance.look_for_handover()

    def whole(self) -> list[CopyId]:
        """Returns the copies that run, or have all that a commit needs."""
        return [
            copy_id
            for instance in self.instances.values()
            for copy_id in instance.whole_copies
        ]

    def send_frames(self, frames: Iterable[StepFrame]) -> None:
        """Sends front ends what steps have brought."""
        for frame in frames:
            self._wires.to_fronts(self._named(frame))

    # What frames say.

    def _named(self, frame: StepFrame) -> HostFrame:
        """Returns a frame with the copies of its rows, and counts them."""
        size = len(frame.handles)
        copies, starts = np.zeros(size, np.int64), np.zeros(size, np.int32)
        for row, handle in enumerate(frame.handles.tolist()):
            copy_id, count = self._told[RequestId(handle)]
            copies[row], starts[row] = copy_id, count
            self._told[RequestId(handle)] = (copy_id, count + 1)
        ends = tuple(self._told[RequestId(end.handle)] for end in frame.finished)
        return HostFrame(frame=frame, copies=copies, starts=starts, ends=ends)

    # What the desk says.

    def _deliver(self, effect: told.Deliver) -> None:
        instance = self.instances.get(effect.device)
        if instance is None:
            return
        message = effect.message
        self.guard(instance, partial(instance.hear, message))
        if isinstance(message, words.Opened) and not instance.has_copy(message.copy_id):
            self.freed(message.copy_id)

    def _let_grow(self, effect: told.LetGrow) -> None:
        instance = self.instances.get(effect.device)
        request = self._copies.get(effect.copy_id)
        if instance is None or request is None:
            return
        self.states[request].pages = max(self.states[request].pages, effect.pages)
        if instance.inner.knows(Serial(effect.copy_id)):
            grants = instance.inner.grants
            grants.grant(Serial(effect.copy_id), pages=effect.pages)

    def _change(self, effect: told.Change) -> None:
        if effect.model is None:
            if effect.device in self.instances:
                self._park(effect.device)
            return
        try:
            self._roster.open(
                effect.device,
                effect.model,
                horizon=effect.horizon,
                context=_Context(self, effect.device),
            )
        except RuntimeError as error:  # no memory, or a device that has gone
            self._fence(effect.device, error)

    def _park(self, device: DeviceGroupId) -> None:
        instance = self._roster.close(device)
        self.tally.close(instance.inner.load())
        news.tell_parked(device, instance.model)

    def _begin(self, effect: told.Begin) -> None:
        """Drops everything: these are the host's device groups from now on."""
        for device in list(self.instances):
            self._park(device)
        self._post.clear()
        self.states.clear()
        self._copies.clear()
        self._told.clear()
        self._pool.name(effect.devices)
        self._wires.hang_up()

    def _fence(self, device: DeviceGroupId, error: Exception) -> None:
        news.tell_fenced(device, what="failed")
        instance = self._roster.fence(device)
        self.tally.lose(instance.inner.load() if instance is not None else None)
        self._pool.lose(device)
        self.desk.num_groups = self._pool.num_groups
        self.do(self.desk.failed(device, reason=f"{type(error).__name__}: {error}"))

    # Elsewhere.

    def _send_away(
        self, to: DeviceGroupId, message: messages.Message, payload: Payload
    ) -> None:
        host = next((h for h in self.desk.hosts if to in h.devices), None)
        if host is None:
            return  # it is gone, as the controller knows
        pages = payload if isinstance(payload, PageTransfer) else None
        parcel = Parcel(
            device=to,
            message=cast("messages.Chunk | messages.Received", message),
            pages=pages,
            tokens=None if isinstance(payload, PageTransfer) else payload,
        )
        self._wires.to_peer(host, parcel)

    def _state(self, parcel: OpeningParcel) -> RequestState:
        """Returns a request as it is known here from now on."""
        submit = parcel.submit
        model = ModelId(submit.model)
        request = resolve(
            submit, serial=Serial(-1), info=self._infos[model], seed=parcel.seed
        )
        state = RequestState(
            parcel.opening.message.request, model=model, template=request
        )
        state.tokens = parcel.tokens
        return state
