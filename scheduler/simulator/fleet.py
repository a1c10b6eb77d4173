"""The simulated fleet: requests prefill, decode and grow; the machine places them.

    trace -> Arrive -> Place -> prefill -> decode, Grow at every page border -> Finish
                        Move -> both ends hold the pages -> MoveCommitted

Every request prefills and decodes at a fixed speed of its own, so a policy changes
where it runs and whether it has to wait, never how fast it runs; a paused request
stands still, one that is being moved goes on at its source. All moves that follow from
one event are carried out together (`Carriage`), at once if links are unbounded. The
caller gives the clock that times the decisions.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mell_jax.scheduler.bounds import instances_bound
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.simulator.carriage import Carriage
from mell_jax.scheduler.simulator.measure import RunMeter, Window
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from mell_jax.scheduler.transfer import Mode, MoveDemand

Clock = Callable[[], float]


class Driven(Protocol):
    """What is simulated: a `Machine`, or something that records or replays one."""

    def step(self, event: events.Event) -> plan.Plan: ...


class _Running:
    """One request on its way."""

    __slots__ = (
        "done",
        "id",
        "input_tokens",
        "is_queued",
        "model",
        "output_tokens",
        "pages",
        "since_s",
        "timer",
    )

    def __init__(
        self, request: RequestId, *, given: int, made: int, model: ModelId
    ) -> None:
        self.id = request
        self.model = model
        self.input_tokens = given
        self.output_tokens = made
        self.pages = 0
        self.done = 0.0  # output tokens made before `since_s`
        self.since_s = 0.0  # decodes since, or will from then on
        self.timer = 0  # a heap entry with another number is void
        self.is_queued = True


class SimulatedFleet:
    """One run of one machine over one workload."""

    def __init__(
        self,
        machine: Driven,
        *,
        workload: Workload,
        settings: Settings,
        clock: Clock,
    ) -> None:
        last = float(workload.arrival_s[-1]) if len(workload) else 0.0
        first = float(workload.arrival_s[0]) if len(workload) else 0.0
        start = first + 0.25 * (last - first)
        self.meter = RunMeter(window=Window(start_s=start, end_s=last))
        self.now_s = 0.0
        self._machine = machine
        self._workload = workload
        self._settings = settings
        self._clock = clock
        self._specs = settings.models()
        self._running: dict[RequestId, _Running] = {}
        self._timers: list[tuple[float, int, RequestId | MoveId, bool]] = []
        self._numbers = 0
        self._soon: deque[events.Event] = deque()
        self._ready_s: dict[DeviceGroupId, float] = {}
        self._serving: dict[DeviceGroupId, ModelId] = {}
        self._carriage = Carriage(settings, ready_s=self._ready_s)

    def run(self, *, progress: Callable[[int], None] = lambda served: None) -> RunMeter:
        """Runs until the last request has ended; `progress` hears of every epoch."""
        settings = self._settings
        for device in range(settings.max_devices):
            self._tell(events.DeviceAdded(device=DeviceGroupId(device)))
        self.meter.decision_s = type(self.meter.decision_s)("d")
        next_arrival, epoch = 0, 1
        arrivals = self._workload.arrival_s.tolist()
        timers = self._timers
        while next_arrival < len(arrivals) or self._running:
            arrival_s = arrivals[next_arrival] if next_arrival < len(arrivals) else None
            tick_s = epoch * settings.epoch_s
            at = min(tick_s, timers[0][0] if timers else tick_s)
            if arrival_s is not None and arrival_s <= at:
                self.now_s = arrival_s
                self._arrive(next_arrival)
                next_arrival += 1
            elif timers and timers[0][0] <= tick_s:
                self.now_s, number, subject, is_move = heapq.heappop(timers)
                if is_move:
                    self._tell(events.MoveCommitted(move=MoveId(subject)))
                else:
                    self._advance(RequestId(subject), number)
            else:
                self.now_s = tick_s
                self._carriage.renew()
                self._tell(events.Tick(now_s=tick_s))
                self._sample()
                progress(self.meter.served_requests + self.meter.rejected)
                epoch += 1
        self.meter.count_devices(self.now_s, len(self._serving))
        return self.meter

    # A request's life.

    def _arrive(self, at: int) -> None:
        workload, page = self._workload, self._settings.page_tokens
        request = _Running(
            RequestId(at),
            given=int(workload.input_tokens[at]),
            made=int(workload.output_tokens[at]),
            model=workload.models[at],
        )
        request.since_s = self.now_s
        request.pages = -(-(request.input_tokens + 1) // page)
        peak = -(-(request.input_tokens + request.output_tokens) // page)
        self._running[request.id] = request
        self._tell(
            events.Arrive(
                request=request.id,
                pages=request.pages,
                model=request.model,
                peak_pages=peak,
            )
        )

    def _advance(self, request_id: RequestId, number: int) -> None:
        """A request has reached the end of its page or of its output."""
        request = self._running.get(request_id)
        if request is None or request.timer != number:
            return
        held = request.pages * self._settings.page_tokens
        request.done = min(request.output_tokens, held - request.input_tokens)
        request.since_s = self.now_s
        if request.done >= request.output_tokens:
            del self._running[request_id]
            self.meter.served_requests += 1
            self.meter.served_tokens += request.input_tokens + request.output_tokens
            self._tell(events.Finish(request=request_id))
            return
        request.pages += 1
        self._set_timer(request)  # a `Wait` in the answer stops it
        self._tell(events.Grow(request=request_id, pages=request.pages))

    def _set_timer(self, request: _Running) -> None:
        """Wakes a decoding request at the end of its page or output."""
        held = request.pages * self._settings.page_tokens - request.input_tokens
        left = min(held, request.output_tokens) - request.done
        self._numbers += 1
        request.timer = self._numbers
        at = request.since_s + left / self._settings.decode_tokens_per_s
        heapq.heappush(self._timers, (at, self._numbers, request.id, False))

    # Decisions.

    def _tell(self, event: events.Event) -> None:
        """Gives the machine an event, and the fleet its answers, until all is quiet."""
        clock, times = self._clock, self.meter.decision_s
        self._soon.append(event)
        while self._soon:
            now = self._soon.popleft()
            start = clock()
            answer = self._machine.step(now)
            times.append(clock() - start)
            for decision in answer.decisions:
                self._obey(decision)
            if not self._soon and self._carriage.is_asked:
                self._begin_moves()

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(self._running[decision.request], decision.device)
            case plan.Move():
                self._move(decision)
            case plan.Wait():
                request = self._running[decision.request]
                request.timer = -1
                self.meter.pauses += not request.is_queued
            case plan.Preempt():
                self._preempt(self._running[decision.request])
            case plan.Reject():
                del self._running[decision.request]
                self.meter.rejected += 1
            case plan.Activate():
                self.meter.activations += 1
                self._serving[decision.device] = decision.model
                self._ready_s[decision.device] = self.now_s + decision.load_s
                self.meter.count_devices(self.now_s, len(self._serving))
            case plan.Park():
                del self._serving[decision.device]
                self.meter.count_devices(self.now_s, len(self._serving))

    def _place(self, request: _Running, device: DeviceGroupId) -> None:
        """Prefills a queued request, or lets a paused one go on."""
        start = self.now_s
        if request.is_queued:
            if request.done == 0:
                self.meter.queue_wait_s.append(self.now_s - request.since_s)
            request.is_queued = False
            tokens = request.input_tokens + int(request.done)
            start = max(start, self._ready_s[device])
            start += tokens / self._settings.prefill_tokens_per_s
        request.since_s = start
        self._set_timer(request)

    def _preempt(self, request: _Running) -> None:
        request.done = self._tokens(request) - request.input_tokens
        request.since_s = self.now_s
        request.timer = -1
        request.is_queued = True
        self.meter.preemptions += 1
        self.meter.tokens_recomputed += request.input_tokens + int(request.done)

    def _tokens(self, request: _Running) -> float:
        """Tokens of a request whose pages are on some device, now."""
        held = request.pages * self._settings.page_tokens
        if request.timer == -1:  # paused at the border of the page it wants
            return request.input_tokens + request.done
        made = (self.now_s - request.since_s) * self._settings.decode_tokens_per_s
        made = max(0.0, made) + request.done
        return min(float(held), request.input_tokens + made)

    def _move(self, move: plan.Move) -> None:
        request = self._running[move.request]
        if self._settings.link_gbps == math.inf:
            self.meter.moved(self.now_s, int(self._tokens(request)))
            self._soon.append(events.MoveCommitted(move=move.move))
        else:
            self._carriage.ask(move)

    def _begin_moves(self) -> None:
        """Begins what the links and the targets can take; counts what they cannot."""
        meter = self.meter
        division = self._carriage.divide(self._demand_of)
        for demand, mode in division.begun:
            ends_s = self._carriage.begin(demand, mode=mode, now_s=self.now_s)
            is_replayed = mode is Mode.TOKENS
            meter.moved(self.now_s, demand.tokens, is_replayed=is_replayed)
            self._numbers += 1
            heapq.heappush(
                self._timers, (ends_s, self._numbers, demand.move.move, True)
            )
        meter.deferrals += len(division.deferred)
        meter.violations += division.violations

    def _demand_of(self, move: plan.Move) -> MoveDemand | None:
        request = self._running.get(move.request)
        if request is None:
            return None
        tokens = max(1, int(self._tokens(request)))
        return self._carriage.demand(move, model=request.model, tokens=tokens)

    # Epochs.

    def _sample(self) -> None:
        """Utilisation counts placed requests once; the bound is of all that live."""
        sizes: dict[ModelId, list[int]] = {model: [] for model in self._specs}
        used = 0
        for request in self._running.values():
            sizes[request.model].append(request.pages)
            used += 0 if request.is_queued else request.pages
        capacity = sum(self._specs[m].capacity_pages for m in self._serving.values())
        bound = 0
        if self._settings.do_bounds:
            for model, pages in sizes.items():
                array = np.array(pages, np.int64)
                bound += instances_bound(array, spec=self._specs[model])
        self.meter.sample(
            self.now_s,
            devices=len(self._serving),
            utilization=used / capacity if capacity else 0.0,
            bound=bound,
        )
