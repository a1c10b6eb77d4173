"""The simulated fleet: requests prefill, decode and grow; the machine places them.

    trace -> Arrive -> Place -> prefill -> decode, Grow at page borders -> Finish
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
from collections.abc import Callable, Sequence
from typing import Protocol

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.simulator.carriage import Begun, Carriage
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.repack import bound_of, demands, window_of
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from mell_jax.scheduler.transfer import Mode, MoveDemand

Clock = Callable[[], float]


class Driven(Protocol):
    """A driven thing is simulated: a `Machine`, or something like it."""

    @property
    def wake_s(self) -> float: ...

    def step(self, event: events.Event, *, now_s: float) -> plan.Plan: ...


class Log(Protocol):
    """A listener is told of everything that happens, in order."""

    def decided(
        self, event: events.Event, answer: plan.Plan, *, now_s: float
    ) -> None: ...

    def began(
        self, begun: Sequence[Begun], *, now_s: float, late: int, over: int
    ) -> None: ...


class _Running:
    """One request on its way."""

    __slots__ = (
        "arrived_s",
        "done",
        "id",
        "input_tokens",
        "is_queued",
        "model",
        "output_tokens",
        "pages",
        "paused_s",
        "prefill_s",
        "since_s",
        "started_s",
        "timer",
    )

    def __init__(
        self,
        request: RequestId,
        *,
        arrived_s: float,
        given: int,
        made: int,
        model: ModelId,
    ) -> None:
        self.id = request
        self.arrived_s = arrived_s
        self.model = model
        self.input_tokens = given
        self.output_tokens = made
        self.pages = 0  # granted, along the sequence
        self.done = 0.0  # output tokens made before `since_s`
        self.since_s = 0.0  # decodes since, or will from then on
        self.prefill_s = 0.0  # its latest prefill began, or will
        self.started_s: float | None = None  # its first one
        self.paused_s: float | None = None  # since when it lacks a page
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
        log: Log | None = None,
    ) -> None:
        self.meter = RunMeter(window=window_of(workload))
        self.now_s = 0.0
        self._machine = machine
        self._workload = workload
        self._settings = settings
        self._clock = clock
        self._log = log
        self._demands = demands(workload, settings=settings)
        self._specs = settings.models()
        self._running: dict[RequestId, _Running] = {}
        self._timers: list[tuple[float, int, RequestId | MoveId, bool]] = []
        self._numbers = 0
        self._soon: deque[events.Event] = deque()
        self._ready_s: dict[DeviceGroupId, float] = {}
        self._serving: dict[DeviceGroupId, ModelId] = {}
        self._moves: dict[MoveId, plan.Move] = {}
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
            wake_s = self._machine.wake_s
            at = min(tick_s, wake_s, timers[0][0] if timers else tick_s)
            if arrival_s is not None and arrival_s <= at:
                self.now_s = arrival_s
                self._arrive(next_arrival)
                next_arrival += 1
            elif wake_s == at:
                self.now_s = wake_s
                self._tell(events.Wake())
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
            arrived_s=self.now_s,
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
                pages=self._held(request),
                model=request.model,
                peak_pages=self._settings.cache.held(peak),
            )
        )

    def _held(self, request: _Running) -> int:
        """Pages of the pool; those that it was granted lie along its sequence."""
        return self._settings.cache.held(request.pages)

    def _advance(self, request_id: RequestId, number: int) -> None:
        """A request has reached the end of its page or of its output."""
        request = self._running.get(request_id)
        if request is None or request.timer != number:
            return
        room = request.pages * self._settings.page_tokens
        request.done = min(request.output_tokens, room - request.input_tokens)
        request.since_s = self.now_s
        if request.done >= request.output_tokens:
            self._end(request)
            return
        held = self._held(request)
        request.pages += 1
        self._set_timer(request)  # a `Wait` in the answer takes both back
        if self._held(request) > held:  # or the page takes the place of another
            self._tell(events.Grow(request=request_id, pages=self._held(request)))

    def _end(self, request: _Running) -> None:
        del self._running[request.id]
        assert request.started_s is not None
        self.meter.wait_s.append(request.started_s - request.arrived_s)
        self.meter.served_requests += 1
        self.meter.served_tokens += request.input_tokens + request.output_tokens
        self._tell(events.Finish(request=request.id))

    def _set_timer(self, request: _Running) -> None:
        """Wakes a decoding request at the end of its page or output."""
        room = request.pages * self._settings.page_tokens - request.input_tokens
        left = min(room, request.output_tokens) - request.done
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
            if isinstance(now, events.MoveCommitted):
                self._come(now.move)
            start = clock()
            answer = self._machine.step(now, now_s=self.now_s)
            times.append(clock() - start)
            if self._log is not None:
                self._log.decided(now, answer, now_s=self.now_s)
            for decision in answer.decisions:
                self._obey(decision)
            if not self._soon and self._carriage.is_asked:
                self._begin_moves()

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(self._running[decision.request], decision)
            case plan.Move():
                self._move(decision)
            case plan.Wait():
                self._pause(self._running[decision.request])
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

    def _place(self, request: _Running, place: plan.Place) -> None:
        """Prefills a queued request, or lets a paused one go on."""
        self._resume(request)
        if place.pages > self._held(request):
            request.pages += 1  # that it was paused for
        assert place.pages == self._held(request), (place, request.pages)
        request.since_s = self.now_s
        if request.is_queued:
            request.is_queued = False
            self._prefill(request, place.device)
        self._set_timer(request)

    def _prefill(self, request: _Running, device: DeviceGroupId) -> None:
        """Begins to compute a request's tokens as soon as the device has loaded."""
        request.prefill_s = max(self.now_s, self._ready_s[device])
        tokens = request.input_tokens + int(request.done)
        rate = self._settings.prefill_tokens_per_s
        request.since_s = request.prefill_s + tokens / rate
        if request.started_s is None or request.started_s > self.now_s:
            request.started_s = request.prefill_s

    def _pause(self, request: _Running) -> None:
        """A request that waits for a place, or lacks the page that it asked for."""
        request.timer = -1
        if not request.is_queued:
            request.pages -= 1
            request.paused_s = self.now_s

    def _resume(self, request: _Running) -> None:
        if request.paused_s is not None:
            self.meter.paused(self.now_s - request.paused_s)
            request.paused_s = None

    def _preempt(self, request: _Running) -> None:
        self._resume(request)
        self.meter.preemptions += 1
        self.meter.tokens_recomputed += self._computed(request)
        request.done = self._tokens(request) - request.input_tokens
        request.since_s = self.now_s
        request.timer = -1
        request.is_queued = True

    def _tokens(self, request: _Running) -> float:
        """Tokens of a request whose pages are on some device, now."""
        room = request.pages * self._settings.page_tokens
        if request.timer == -1:  # paused at the border of the page it wants
            return request.input_tokens + request.done
        made = (self.now_s - request.since_s) * self._settings.decode_tokens_per_s
        made = max(0.0, made) + request.done
        return min(float(room), request.input_tokens + made)

    def _computed(self, request: _Running) -> int:
        """Tokens that its device has computed, now; fewer during a prefill."""
        if self.now_s >= request.since_s:
            return int(self._tokens(request))
        since_s = max(0.0, self.now_s - request.prefill_s)
        return int(since_s * self._settings.prefill_tokens_per_s)

    def _move(self, move: plan.Move) -> None:
        request = self._running[move.request]
        self._moves[move.move] = move
        if self._settings.link_gbps == math.inf:
            self._move_at_once(request)
            self._soon.append(events.MoveCommitted(move=move.move))
        else:
            self._carriage.ask(move)

    def _move_at_once(self, request: _Running) -> None:
        tokens = self._moved_tokens(request)
        each = self._settings.held_bytes_per_token(request.model, tokens=max(1, tokens))
        self.meter.moved(self.now_s, tokens, link_bytes=tokens * each)

    def _moved_tokens(self, request: _Running) -> int:
        """A prefill that has begun goes along as a whole, another is nothing yet."""
        is_begun = self.now_s >= request.prefill_s
        return int(self._tokens(request)) if is_begun else 0

    def _come(self, move_id: MoveId) -> None:
        """A request is at its target; what was not begun for loading begins there."""
        move = self._moves.pop(move_id)
        request = self._running.get(move.request)
        if request is not None and self.now_s < request.prefill_s:
            self._prefill(request, move.target)
            self._set_timer(request)

    def _begin_moves(self) -> None:
        """Begins what the links and the targets can take; counts what they cannot."""
        meter = self.meter
        division = self._carriage.divide(self._demand_of)
        begun: list[Begun] = []
        for demand, mode in division.begun:
            ends_s = self._carriage.begin(demand, mode=mode, now_s=self.now_s)
            meter.moved(
                self.now_s,
                demand.tokens,
                link_bytes=demand.link_bytes(mode),
                is_replayed=mode is Mode.TOKENS,
            )
            self._numbers += 1
            heapq.heappush(
                self._timers, (ends_s, self._numbers, demand.move.move, True)
            )
            move, tokens = demand.move.move, demand.tokens
            begun.append(Begun(move=move, mode=mode, tokens=tokens, ends_s=ends_s))
        meter.deferrals += len(division.deferred)
        meter.violations += division.violations
        if self._log is not None:
            late, over = len(division.deferred), division.violations
            self._log.began(begun, now_s=self.now_s, late=late, over=over)

    def _demand_of(self, move: plan.Move) -> MoveDemand | None:
        request = self._running.get(move.request)
        if request is None:
            return None
        tokens = max(1, self._moved_tokens(request))
        return self._carriage.demand(move, model=request.model, tokens=tokens)

    # Epochs.

    def _sample(self) -> None:
        """Utilisation counts placed requests once; the bound is the workload's."""
        placed = [r for r in self._running.values() if not r.is_queued]
        used = sum(self._held(request) for request in placed)
        capacity = sum(self._specs[m].capacity_pages for m in self._serving.values())
        bound = 0
        if self._settings.do_bounds and (demand := next(self._demands, None)):
            bound = bound_of(demand, settings=self._settings)
        self.meter.sample(
            self.now_s,
            devices=len(self._serving),
            utilization=used / capacity if capacity else 0.0,
            bound=bound,
        )
