"""A shadow is a placement machine of its own that hears what happens to a real fleet.

    events -> machine of the fleet -> decisions -> carried out
       '----> shadow's machine     -> decisions -> taken as done at once

It tells how many devices another policy would hold for the same requests. Nobody obeys
it, so its moves take no time, and a request may have a place here and none there: what
has no place in the shadow grows once it has one.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import final

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy

_OF_THE_FLEET = (events.Relocate, events.MoveCommitted, events.MoveAborted)
"""An operator means the fleet as it is, and its moves are others than those here."""


@final
class Shadow:
    """A shadow follows one fleet by one policy.

    Args:
      models: as the fleet's own machine has them.
      policy: new; it must not be shared with a machine.
    """

    def __init__(self, *, models: Mapping[ModelId, ModelSpec], policy: Policy) -> None:
        self._machine = Machine(models=models, policy=policy)
        self._ledger = self._machine.ledger
        self._wanted: dict[RequestId, int] = {}  # pages, by those that cannot grow yet

    @property
    def devices(self) -> int:
        """Returns how many devices the policy holds now."""
        return len(self._ledger.instances)

    def check(self) -> None:
        """Recounts the books; for tests.

        Raises:
          AssertionError: they do not balance.
        """
        self._ledger.check()

    def tell(self, event: events.Event, *, now_s: float) -> None:
        """Takes an event of the fleet, at a time that never goes back.

        Raises:
          ValueError: it contradicts what was told before.
        """
        if isinstance(event, _OF_THE_FLEET):
            return
        todo: deque[events.Event] = deque((event,))
        while todo:
            heard = self._as_heard(todo.popleft())
            if heard is None:
                continue
            answer = self._machine.step(heard, now_s=now_s)
            for decision in answer.decisions:
                todo.extend(self._follow(decision))

    def _as_heard(self, event: events.Event) -> events.Event | None:
        """Returns what the event is to the shadow's own books; None for nothing."""
        match event:
            case events.Grow():
                return self._growth(event)
            case events.Finish():
                self._wanted.pop(event.request, None)
                return event if event.request in self._ledger.requests else None
            case events.Arrive():  # what is cached lies on other devices here
                return replace(event, prefix=()) if event.prefix else event
            case events.DeviceAdded():
                may_come = self._machine.is_draining(event.device)
                return event if may_come or not self._has(event.device) else None
            case events.DeviceRemoved() | events.DeviceLost():
                return event if self._has(event.device) else None
            case events.DevicesLost():
                event = replace(event, devices=tuple(filter(self._has, event.devices)))
        return event

    def _growth(self, event: events.Grow) -> events.Grow | None:
        """Returns a growth that can be asked for now; a later one is kept in mind."""
        request = self._ledger.requests.get(event.request)
        if request is None or event.pages <= request.pages:
            return None
        home = request.device
        if home is None or event.request in self._ledger.instances[home].stalled:
            self._wanted[event.request] = event.pages
            return None
        return event

    def _follow(self, decision: plan.Decision) -> Iterator[events.Event]:
        """Yields what a decision brings about, as if it had been carried out."""
        match decision:
            case plan.Move():
                yield events.MoveCommitted(move=decision.move)
                yield from self._late_growth(decision.request)
            case plan.Place():
                yield from self._late_growth(decision.request)
            case plan.Reject():
                self._wanted.pop(decision.request, None)

    def _late_growth(self, request: RequestId) -> Iterator[events.Event]:
        pages = self._wanted.pop(request, None)
        if pages is not None:
            yield events.Grow(request=request, pages=pages)

    def _has(self, device: DeviceGroupId) -> bool:
        return device in self._ledger.instances or self._ledger.is_idle(device)
