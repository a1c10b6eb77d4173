"""The viewer makes a `FleetView` of books and instances, on the engine's thread.

Looking at everything costs time that decodes would have, so a view is kept for half a
second; a fleet that has come to rest is always seen as it is.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from mell_jax.engine.admin import ServingState
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet_view import (
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
    MoveStage,
    MoveView,
    ServingView,
    SleepState,
)
from mell_jax.engine.stream_view import RequestsView
from mell_jax.scheduler.bounds import instances_bound
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.migration.records import MovePhase
from mell_jax.scheduler.placement.accounts import RequestAccount

KEPT_S = 0.5
MOST_REQUESTS = 2000  # that are shown one by one
STAGES = {
    MovePhase.RESERVING: MoveStage.RESERVING,
    MovePhase.COPYING: MoveStage.COPYING,
    MovePhase.COMMITTED: MoveStage.RELEASING,
    MovePhase.ABORTING: MoveStage.RELEASING,
}


class Viewer:
    """The viewer looks at one fleet."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        devices: list[DeviceGroupId],
        profile: Profile,
        serving: Callable[[], ServingState],
    ) -> None:
        self._conductor = conductor
        self._serving = serving
        self._devices = sorted(devices)
        self._links = {
            (int(source), int(target)): speed
            for (source, target), speed in profile.bytes_per_s.items()
        }
        self._slack = {
            (int(device), str(model)): speed
            for (device, model), speed in profile.prefill_tokens_per_s.items()
        }
        self._view: FleetView | None = None
        self._looks = 0
        self._seen_s = -math.inf

    def view(self, *, now_s: float, anew: bool) -> FleetView:
        """Returns a view made `anew`, or one that is not older than `KEPT_S`."""
        if self._view is None or anew or now_s - self._seen_s >= KEPT_S:
            self._view, self._seen_s = self._look(), now_s
        return self._view

    def _look(self) -> FleetView:
        self._looks += 1
        conductor, known = self._conductor, self._known_tokens()
        self._follow_more(known)
        return FleetView(
            number=self._looks,
            at_s=conductor.ticks.now_s,
            device_s=conductor.in_use.total_s(conductor.now_s),
            requests=self._requests(known),
            streams=conductor.ticks.views(),
            gaps=conductor.ticks.gaps(),
            shadows=conductor.shadows.views(now_s=conductor.now_s),
            instances=tuple(self._instance(device) for device in self._devices),
            models=self._models(),
            moves=tuple(
                self._move(move.request, source=move.source, target=move.target)
                for move in conductor.machine.ledger.moves.values()
            ),
            stats=conductor.tally.stats(),
            link_bytes_per_s=self._links,
            prefill_tokens_per_s=self._slack,
            serving=serving_view(self._serving()),
        )

    def _known_tokens(self) -> dict[RequestId, int]:
        """Returns the tokens that each request with a row has, prompt included."""
        known: dict[RequestId, int] = {}
        books = self._conductor.machine.ledger.requests
        for instance in self._conductor.instances.values():
            for request, tokens in _rows_of(instance):
                account = books.get(request)
                if account is not None and account.device == instance.device:
                    known[request] = tokens
        return known

    def _requests(self, known: dict[RequestId, int]) -> RequestsView:
        ledger = self._conductor.machine.ledger
        shown = list(islice(ledger.requests.values(), MOST_REQUESTS))
        return RequestsView(
            numbers=tuple(each.id for each in shown),
            devices=tuple(-1 if e.device is None else e.device for e in shown),
            targets=tuple(
                -1 if each.move is None else ledger.moves[each.move].target
                for each in shown
            ),
            pages=tuple(each.pages for each in shown),
            tokens=tuple(known.get(each.id, 0) for each in shown),
            left_out=len(ledger.requests) - len(shown),
        )

    def _follow_more(self, known: dict[RequestId, int]) -> None:
        """Follows the ticks of streams that came when there was no lane for them."""
        ticks, conductor = self._conductor.ticks, self._conductor
        if ticks.free_lanes == 0:
            return
        for request, tokens in known.items():
            state = conductor.state(request)
            device = conductor.machine.ledger.requests[request].device
            if state is None or device is None or ticks.follows(state.handle):
                continue
            prompt = len(state.template.submit.prompt)
            ticks.follow(
                request, handle=state.handle, device=device, tokens=tokens - prompt
            )
            if ticks.free_lanes == 0:
                return

    def _instance(self, device: DeviceGroupId) -> InstanceView:
        conductor = self._conductor
        instance = conductor.instances.get(device)
        if instance is None:
            return InstanceView(device=device, state=state_of(conductor, device))
        ledger, batcher = conductor.machine.ledger, instance.inner.batcher
        books = ledger.instances.get(device)
        pages = books.pages if books is not None else 0
        arriving = books.arriving.values() if books is not None else ()
        reserved = sum(request.pages for request in arriving)
        return InstanceView(
            device=device,
            state=state_of(conductor, device),
            model=instance.model,
            capacity_pages=ledger.spec(instance.model).capacity_pages,
            used_pages=pages - reserved,
            reserved_pages=reserved,
            cached_pages=batcher.cache.counts.cached,
            running=batcher.num_running,
            waiting=batcher.num_waiting,
            paused=sum(
                ledger.requests[request].device == device
                for request in (books.stalled if books is not None else ())
            ),
        )

    def _models(self) -> tuple[ModelView, ...]:
        ledger = self._conductor.machine.ledger
        found: dict[str, list[RequestAccount]] = {name: [] for name in ledger.models}
        for request in ledger.requests.values():
            found[request.model].append(request)
        return tuple(
            ModelView(
                name=name,
                lower_bound=instances_bound(
                    np.array([r.pages for r in found[name]], np.int64),
                    spec=ledger.spec(name),
                ),
                waiting=sum(request.device is None for request in found[name]),
            )
            for name in ledger.models
        )

    def _move(
        self, request: RequestAccount, *, source: DeviceGroupId, target: DeviceGroupId
    ) -> MoveView:
        stage, mode = self._progress(request.id, target)
        return MoveView(
            request=request.id, source=source, target=target, mode=mode, stage=stage
        )

    def _progress(
        self, request: RequestId, target: DeviceGroupId
    ) -> tuple[MoveStage, str]:
        """Returns how far the controller has a move; one that has not begun waits."""
        owner = self._conductor.controller.owners.get(request)
        move = owner.move if owner is not None else None
        if move is None or move.target != target:
            return MoveStage.WAITING, ""
        return STAGES[move.phase], move.order.mode.name.lower()


def _rows_of(instance: FleetInstance) -> Iterator[tuple[RequestId, int]]:
    """Yields the requests that have a row, with the tokens that the host knows."""
    sequences = instance.inner.sequences
    running = sequences.running
    tokens = sequences.rows.known[list(running.values())].tolist()
    for serial, count in zip(running, tokens, strict=True):
        request = instance.requests.get(serial)
        if request is not None:
            yield request, count


def serving_view(state: ServingState) -> ServingView:
    """Returns what is shown of a state."""
    sleep = SleepState.POOLS if state.sleep_level else SleepState.AWAKE
    if any(each.is_dropped for each in state.weights):
        sleep = SleepState.DROPPED
    return ServingView(
        is_paused=state.is_paused,
        sleep=sleep,
        freed_bytes=state.freed_bytes,
        updates={each.model: each.updates for each in state.weights},
    )


def state_of(conductor: Conductor, device: DeviceGroupId) -> GroupState:
    """Returns what a device group does now."""
    machine, instance = conductor.machine, conductor.instances.get(device)
    if device in conductor.roster.lost:
        return GroupState.LOST
    if machine.is_draining(device):
        return GroupState.DRAINING
    if instance is not None:
        return GroupState.SERVING if instance.is_open else GroupState.OPENING
    if device in conductor.away:
        return GroupState.PARKED
    return GroupState.PARKED if machine.ledger.is_idle(device) else GroupState.DRAINED
