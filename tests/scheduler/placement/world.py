"""What a fleet would really hold if it obeyed every decision; trusts no ledger.

It counts a request's pages where it lives and, while a move is in flight, also at the
move's target, and complains as soon as an instance holds more than it can.
"""

from mell_jax.scheduler.ids import (
    DeviceGroupId,
    KindId,
    ModelId,
    MoveId,
    RequestId,
)
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.kind import ONLY_KIND, DeviceKind
from mell_jax.scheduler.placement.model import ModelSpec


class World:
    """Follows events and plans; `check` raises AssertionError for what cannot be."""

    def __init__(
        self,
        models: dict[ModelId, ModelSpec],
        *,
        kinds: dict[KindId, DeviceKind] | None = None,
    ) -> None:
        self.kinds = kinds or {ONLY_KIND: DeviceKind(models=models)}
        self.kind_of: dict[DeviceGroupId, KindId] = {}
        self.peaks: dict[RequestId, int] = {}  # as announced
        self.idle: set[DeviceGroupId] = set()
        self.serving: dict[DeviceGroupId, ModelId] = {}
        self.model_of: dict[RequestId, ModelId] = {}
        self.pages: dict[RequestId, int] = {}
        self.wanted: dict[RequestId, int] = {}  # growth that has to wait
        self.home: dict[RequestId, DeviceGroupId | None] = {}
        self.moves: dict[MoveId, plan.Move] = {}

    def follow(self, event: events.Event, answer: plan.Plan) -> None:
        match event:
            case events.Arrive():
                self.model_of[event.request] = event.model
                self.pages[event.request] = event.pages
                self.peaks[event.request] = event.peak_pages or 0
                self.home[event.request] = None
            case events.Grow():
                if plan.Wait(request=event.request) in answer.decisions:
                    self.wanted[event.request] = event.pages
                else:
                    self.pages[event.request] = event.pages
            case events.Finish():
                self._forget(event.request)
            case events.MoveCommitted() if event.move in self.moves:
                move = self.moves.pop(event.move)
                self.home[move.request] = move.target
            case events.MoveAborted() if event.move in self.moves:
                del self.moves[event.move]
            case _:
                self._follow_device(event)
        self.obey(answer)

    def obey(self, answer: plan.Plan) -> None:
        for decision in answer.decisions:
            self._obey(decision)

    def _follow_device(self, event: events.Event) -> None:
        match event:
            case events.DeviceAdded():
                if event.device not in self.serving:  # else it was to be given back
                    self.idle.add(event.device)
                    self.kind_of[event.device] = event.kind
            case events.DeviceRemoved():
                self.idle.discard(event.device)
            case events.DeviceLost():
                self._lose(event.device)

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                home = self.home[decision.request]
                assert home is None or home == decision.device, "placed twice"
                assert self.serving[decision.device] == self.model_of[decision.request]
                self.home[decision.request] = decision.device
                self.pages[decision.request] = decision.pages
                self.wanted.pop(decision.request, None)
            case plan.Move():
                assert self.home[decision.request] == decision.source
                assert decision.source != decision.target
                assert self.pages[decision.request] == decision.pages
                moved = [move.request for move in self.moves.values()]
                assert decision.request not in moved, "moved twice at once"
                self.moves[decision.move] = decision
            case plan.Preempt():
                assert self.home[decision.request] in (decision.device, None)
                self.home[decision.request] = None
                wanted = self.wanted.pop(decision.request, None)
                if wanted is not None:
                    self.pages[decision.request] = wanted
            case plan.Reject():
                self._forget(decision.request)
            case plan.Activate():
                self.idle.remove(decision.device)
                assert decision.kind == self.kind_of[decision.device]
                self.serving[decision.device] = decision.model
            case plan.Park():
                assert self._held(decision.device) == (0, 0), "parked while in use"
                del self.serving[decision.device]
                self.idle.add(decision.device)

    def _forget(self, request: RequestId) -> None:
        self.model_of.pop(request, None)
        self.pages.pop(request, None)
        self.wanted.pop(request, None)
        self.home.pop(request, None)
        self._end_moves(request)

    def _end_moves(self, request: RequestId) -> None:
        self.moves = {k: m for k, m in self.moves.items() if m.request != request}

    def _lose(self, device: DeviceGroupId) -> None:
        self.idle.discard(device)
        self.serving.pop(device, None)
        ends = [m for m in self.moves.values() if device in (m.source, m.target)]
        for move in ends:
            self._end_moves(move.request)
        for request, home in self.home.items():
            if home == device:
                self.home[request] = None

    def _held(self, device: DeviceGroupId) -> tuple[int, int]:
        """Pages and rows on a device."""
        there = [r for r, home in self.home.items() if home == device]
        there += [m.request for m in self.moves.values() if m.target == device]
        return sum(self.pages[request] for request in there), len(there)

    def _spec(self, device: DeviceGroupId, model: ModelId) -> ModelSpec:
        return self.kinds[self.kind_of[device]].models[model]

    def check(self) -> None:
        """No instance holds more than it can, in pages or in step time.

        Nor does a request live where what it may need would never fit.
        """
        for request, home in self.home.items():
            if home is not None:
                alone = self._spec(home, self.serving[home]).capacity(1)
                assert max(self.peaks[request], self.pages[request]) <= alone
        for device, model in self.serving.items():
            pages, rows = self._held(device)
            limit = self._spec(device, model).capacity(rows) if rows else 0
            assert pages <= limit, f"device {device} holds {pages} of {limit} pages"
        for request, home in self.home.items():
            assert home is None or home in self.serving, f"{request} is on {home}"
