"""The administrator carries out what an operator asks, between two steps.

Everything goes through the placement machine, as the fleet's own decisions do; what the
machine would not do is refused here, with the reason.
"""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from mell_jax.engine.admin import (
    AbortOpen,
    Answer,
    AskServing,
    Command,
    DeviceStatus,
    Drain,
    ListPlacements,
    Migrate,
    Migration,
    NameWeights,
    Pause,
    Picture,
    Placement,
    Placements,
    PolicyChange,
    ResetPrefixCache,
    Resume,
    ServingState,
    SetPolicy,
    Sleep,
    Snapshot,
    Undrain,
    UpdateWeights,
    Wake,
    pick,
)
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.news import tell_policy
from mell_jax.engine.fleet.pauses import Pauses
from mell_jax.engine.fleet.updates import Updates
from mell_jax.engine.fleet.viewer import Viewer, state_of
from mell_jax.engine.fleet_view import GroupState
from mell_jax.engine.params import InvalidRequestError
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.operator import (
    NotPossibleError,
    UnknownTargetError,
    check_moves,
    relocation,
    removal,
)
from mell_jax.scheduler.policies.chosen import ChoiceError, chosen_policy


class Administrator:
    """The administrator works for one fleet, on its thread."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        devices: Collection[DeviceGroupId],
        viewer: Viewer,
        config: FleetConfig,
        clock: Callable[[], float],
        updates: Updates,
        pauses: Pauses,
    ) -> None:
        self._conductor = conductor
        self._updates = updates
        self._pauses = pauses
        self._devices = sorted(devices)
        self._viewer = viewer
        self._config = config
        self._clock = clock
        self._policy = config.policy
        self._handlers: dict[type, Callable[[Any], Answer | Future[Answer]]] = {
            ListPlacements: self._list,
            Migrate: self._migrate,
            Drain: self._drain,
            Undrain: self._undrain,
            Snapshot: self._snapshot,
            SetPolicy: self._set_policy,
            UpdateWeights: updates.carry_out,
            ResetPrefixCache: updates.reset_prefix_cache,
            Pause: pauses.pause,
            Resume: pauses.resume,
            Sleep: pauses.sleep,
            Wake: pauses.wake,
            AskServing: lambda _: pauses.state(),
            NameWeights: self._name_weights,
            AbortOpen: pauses.abort_open,
        }

    def carry_out(self, command: Command) -> Answer | Future[Answer]:
        """Returns the answer to a command, or one to come in a later step.

        Raises:
          UnknownTargetError: it names something that is not there.
          NotPossibleError: it cannot be done as things are.
          InvalidRequestError: a value of it is out of range.
        """
        return self._handlers[type(command)](command)

    def _list(self, command: ListPlacements) -> Placements:
        ledger = self._conductor.machine.ledger
        if command.model is not None and command.model not in ledger.models:
            raise UnknownTargetError(
                f"no model {command.model!r:.100} is served here; there is "
                f"{', '.join(ledger.models)}"
            )
        if command.device is not None:
            self._device(command.device)
        found = [self._placement(request) for request in ledger.requests.values()]
        return pick([each for each in found if each is not None], command=command)

    def _placement(self, request: RequestAccount) -> Placement | None:
        """Returns None if it has ended, as the books are about to hear."""
        state = self._conductor.state(request.id)
        if state is None:
            return None
        ledger, home = self._conductor.machine.ledger, request.device
        is_paused = home is not None and request.id in ledger.instances[home].stalled
        moving = request.move is not None
        return Placement(
            request=request.id,
            handle=state.handle,
            model=request.model,
            device=home,
            target=ledger.moves[request.move].target
            if request.move is not None
            else None,
            pages=request.pages,
            prompt_tokens=len(state.template.submit.prompt),
            is_paused=is_paused and not moving,
        )

    def _migrate(self, command: Migrate) -> Migration:
        conductor = self._conductor
        ledger = conductor.machine.ledger
        device = self._device(command.device)
        request = ledger.requests.get(RequestId(command.request))
        if request is None or conductor.state(request.id) is None:
            raise UnknownTargetError(
                f"there is no request {command.request}; it never came or has ended"
            )
        event = relocation(
            ledger,
            request,
            device=device,
            state_of=lambda device: state_of(conductor, device).value,
        )
        source = request.device
        assert source is not None, "one without a place goes nowhere"
        if event is not None:
            conductor.decide(event)
            check_moves(request, device=device)
            conductor.settle()
        return Migration(source=source, target=device, is_moving=event is not None)

    def _name_weights(self, command: NameWeights) -> ServingState:
        self._updates.name(command)
        return self._pauses.state()

    def _snapshot(self, command: Snapshot) -> Picture:
        view = self._viewer.view(now_s=self._clock(), anew=True)
        return Picture(policy=self._policy, view=view)

    def _drain(self, command: Drain) -> DeviceStatus:
        device = self._device(command.device)
        self._check_usable(device)
        event = removal(
            self._conductor.machine, device=device, instead="stop the server instead"
        )
        if event is not None:
            self._conductor.decide(event)
            self._conductor.settle()
        return self._status(device)

    def _undrain(self, command: Undrain) -> DeviceStatus:
        device = self._device(command.device)
        self._check_usable(device)
        state = state_of(self._conductor, device)
        if state in (GroupState.DRAINING, GroupState.DRAINED):
            self._conductor.decide(events.DeviceAdded(device=device))
            self._conductor.settle()
        return self._status(device)

    def _set_policy(self, command: SetPolicy) -> PolicyChange:
        try:
            policy = chosen_policy(
                command.policy,
                base=self._config.policy_config(),
                look_s=command.look_s,
                headroom=command.headroom,
            )
        except ChoiceError as error:
            raise InvalidRequestError(error.field, error.rule) from error
        self._conductor.adopt(policy)
        self._conductor.settle()
        before, self._policy = self._policy, command.policy
        tell_policy(command.policy, before=before)
        return PolicyChange(policy=command.policy, before=before, look_s=policy.look_s)

    def _device(self, number: int) -> DeviceGroupId:
        if number not in self._devices:
            raise UnknownTargetError(
                f"there is no device {number}; they go from 0 to {self._devices[-1]}"
            )
        return DeviceGroupId(number)

    def _check_usable(self, device: DeviceGroupId) -> None:
        if self._pauses.is_asleep:
            raise NotPossibleError("the engine sleeps: wake it before")
        if state_of(self._conductor, device) is GroupState.LOST:
            raise NotPossibleError(f"device {device} has failed and is not used again")

    def _status(self, device: DeviceGroupId) -> DeviceStatus:
        instances = self._conductor.machine.ledger.instances
        instance: InstanceAccount | None = instances.get(device)
        return DeviceStatus(
            state=state_of(self._conductor, device),
            requests_left=0 if instance is None else instance.rows,
        )
