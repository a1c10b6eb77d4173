"""The simulated fleet: requests prefill, decode and grow; the machine places them.

    trace -> Arrive -> Place -> prefill -> decode, Grow at page borders -> Finish
                        Move -> both ends hold the pages -> MoveCommitted

How fast requests compute is a matter of their `Pace`; a paused request stands still,
one that is being moved goes on at its source. All moves that follow from one event are
carried out together (`Carriage`), at once if links are unbounded. The caller gives the
clock that times the decisions.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.carriage import Begun, Carriage
from mell_jax.scheduler.simulator.delivery import (
    Delivery,
    FixedDelivery,
    StepDelivery,
    Wires,
)
from mell_jax.scheduler.simulator.latency import Latencies
from mell_jax.scheduler.simulator.losses import Losses
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.money import make_money_meter
from mell_jax.scheduler.simulator.open_devices import OpenDevices
from mell_jax.scheduler.simulator.pace import FixedPace, Pace
from mell_jax.scheduler.simulator.prefixes import Prefixes
from mell_jax.scheduler.simulator.repack import (
    bound_of,
    demands,
    price_bound_of,
    window_of,
)
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.step_pace import StepPace
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
        self.meter = RunMeter(
            window=window_of(workload),
            latencies=Latencies(
                slo_ttft_s=settings.slo_ttft_s, slo_tpot_s=settings.slo_tpot_s
            ),
            money=make_money_meter(settings, window=window_of(workload)),
        )
        self._agenda = Agenda()
        self._machine = machine
        self._workload = workload
        self._settings = settings
        self._clock = clock
        self._log = log
        self._demands = demands(workload, settings=settings)
        self._kinds = settings.fleet()
        self._running: dict[RequestId, Request] = {}
        self._soon: deque[events.Event] = deque()
        self._moves: dict[MoveId, plan.Move] = {}
        self._called_off: set[MoveId] = set()  # for one of their ends was lost
        self._open = OpenDevices(settings, meter=self.meter)
        self._carriage = Carriage(settings, ready_s=self._open.ready_s)
        self._prefixes = Prefixes(workload, settings=settings)
        self._pace: Pace
        self._delivery: Delivery
        self._set_pace()
        self._losses = Losses(settings, agenda=self._agenda, lose=self._lose)
        self.meter.losses = self._losses.meter

    def _set_pace(self) -> None:
        """Chooses how requests compute, and how moves get to their targets."""
        settings, agenda, ready_s = self._settings, self._agenda, self._open.ready_s
        carriage = self._carriage
        wires = Wires(settings, carriage=carriage, agenda=agenda, ready_s=ready_s)
        if settings.steps is None:
            self._pace = FixedPace(
                settings,
                agenda=agenda,
                prefixes=self._prefixes,
                ready_s=ready_s,
                reached=self._reached,
            )
            self._delivery = FixedDelivery(
                carriage=carriage, wires=wires, agenda=agenda, commit=self._commit
            )
            return
        self._pace = pace = StepPace(
            settings,
            agenda=agenda,
            held=self._held,
            prefixes=self._prefixes,
            ready_s=ready_s,
            reached=self._reached,
        )
        self._delivery = StepDelivery(
            settings,
            pace=pace,
            wires=wires,
            find=self._running.get,
            commit=self._commit,
        )

    @property
    def now_s(self) -> float:
        """Tells the time in the simulation."""
        return self._agenda.now_s

    def run(self, *, progress: Callable[[int], None] = lambda served: None) -> RunMeter:
        """Runs until the last request has ended; `progress` hears of every epoch."""
        settings = self._settings
        for device, own in self._kinds.items():
            self._tell(events.DeviceAdded(device=device, kind=own.kind))
        self.meter.decision_s = type(self.meter.decision_s)("d")
        next_arrival, epoch = 0, 1
        arrivals = self._workload.arrival_s.tolist()
        agenda = self._agenda
        while next_arrival < len(arrivals) or self._running:
            arrival_s = arrivals[next_arrival] if next_arrival < len(arrivals) else None
            tick_s = epoch * settings.epoch_s
            wake_s = self._machine.wake_s
            at = min(tick_s, wake_s, agenda.next_s)
            if arrival_s is not None and arrival_s <= at:
                agenda.now_s = arrival_s
                self._arrive(next_arrival)
                next_arrival += 1
            elif wake_s == at:
                agenda.now_s = wake_s
                self._tell(events.Wake())
            elif agenda.next_s <= tick_s:
                agenda.advance()
            else:
                agenda.now_s = tick_s
                self._carriage.renew()
                self._tell(events.Tick(now_s=tick_s))
                self._sample()
                progress(self.meter.served_requests + self.meter.rejected)
                epoch += 1
        self._open.end(self.now_s)
        self.meter.prefix_hit_tokens = self._prefixes.hit_tokens
        self.meter.prefix_asked_tokens = self._prefixes.asked_tokens
        return self.meter

    # A request's life.

    def _arrive(self, at: int) -> None:
        workload, page = self._workload, self._settings.page_tokens
        request = Request(
            RequestId(at),
            arrived_s=self.now_s,
            input_tokens=int(workload.input_tokens[at]),
            output_tokens=int(workload.output_tokens[at]),
            model=workload.models[at],
        )
        request.pages = -(-(request.input_tokens + 1) // page)
        peak = -(-(request.input_tokens + request.output_tokens) // page)
        self._running[request.id] = request
        self._tell(
            events.Arrive(
                request=request.id,
                pages=self._held(request),
                model=request.model,
                peak_pages=self._settings.cache.held(peak),
                prefix=self._prefixes.arrive(request),
            )
        )

    def _held(self, request: Request) -> int:
        """Pages of the pool; those that it was granted lie along its sequence."""
        return self._settings.cache.held(request.pages)

    def _reached(self, request: Request) -> None:
        """A request is at the end of its pages or of its output."""
        if request.done >= request.output_tokens:
            self._end(request)
            return
        held = self._held(request)
        request.pages += 1
        self._pace.go_on(request)  # a `Wait` in the answer takes both back
        if self._held(request) > held:  # or the page takes the place of another
            self._tell(events.Grow(request=request.id, pages=self._held(request)))
            self._charge(request)

    def _charge(self, request: Request) -> None:
        """Tells the caches what a request is charged for, wherever it is."""
        if request.device is None or not self._prefixes.are_shared:
            return
        pages = self._held(request)
        self._prefixes.charge(request, request.device, pages=pages)
        if request.move is not None:
            target = self._moves[request.move].target
            self._prefixes.charge(request, target, pages=pages)

    def _end(self, request: Request) -> None:
        del self._running[request.id]
        assert request.started_s is not None and request.first_s is not None
        self.meter.latencies.ended(
            arrived_s=request.arrived_s,
            first_s=request.first_s,
            ended_s=self.now_s,
            tokens=request.output_tokens,
        )
        self.meter.wait_s.append(request.started_s - request.arrived_s)
        self.meter.served_requests += 1
        self.meter.served_tokens += request.input_tokens + request.output_tokens
        self._forget(request)
        self._tell(events.Finish(request=request.id))

    def _forget(self, request: Request) -> None:
        """A request is gone, wherever it was."""
        self._pace.end(request)
        self._prefixes.leave(request, has_ended=True)
        self._leave_device(request)

    def _leave_device(self, request: Request) -> None:
        """A request has no device; a move that takes it elsewhere means nothing."""
        if request.move is not None:
            del self._moves[request.move]
        request.device = request.move = None

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
                self._preempt(self._running[decision.request], device=decision.device)
            case plan.Reject():
                self._forget(self._running.pop(decision.request))
                self.meter.rejected += 1
            case plan.Activate():
                self._activate(decision)
            case plan.Park():
                self._pace.closed(decision.device)
                self._prefixes.closed(decision.device)
                self._open.park(decision.device, now_s=self.now_s)

    def _activate(self, decision: plan.Activate) -> None:
        """Loads a model; of a warm device the machine hears how long it took."""
        device = decision.device
        load_s = self._open.open(decision, now_s=self.now_s)
        self._prefixes.opened(
            device,
            model=decision.model,
            capacity_pages=self._open.capacity_pages_of(device),
        )
        self._pace.opened(device)
        if self._settings.warm_devices:
            learned = events.Activated(model=decision.model, took_s=load_s)
            self._agenda.note(self.now_s + load_s, self._tell_later, learned)

    def _tell_later(self, event: events.Event, number: int) -> None:
        self._tell(event)

    def _place(self, request: Request, place: plan.Place) -> None:
        """Prefills a queued request, or lets a paused one go on."""
        self._resume(request)
        if place.pages > self._held(request):
            request.pages += 1  # that it was paused for
        assert place.pages == self._held(request), (place, request.pages)
        if request.is_queued:
            request.is_queued = False
            request.device = place.device
            self._losses.note_place(
                request.id, start_s=max(self.now_s, self._open.ready_s[place.device])
            )
            self._charge(request)
            self._pace.start(request)
        else:
            self._charge(request)
            self._pace.go_on(request)

    def _pause(self, request: Request) -> None:
        """A request that waits for a place, or lacks the page that it asked for."""
        self._pace.halt(request)
        if not request.is_queued:
            request.pages -= 1
            request.paused_s = self.now_s

    def _resume(self, request: Request) -> None:
        if request.paused_s is not None:
            self.meter.paused(self.now_s - request.paused_s)
            request.paused_s = None

    def _preempt(self, request: Request, *, device: DeviceGroupId) -> None:
        self._resume(request)
        computed = self._pace.computed(request)
        self.meter.tokens_recomputed += computed
        if device in self._open:
            self.meter.preemptions += 1
        else:  # it was lost with its device
            self._losses.note_request(request.id, tokens=computed)
        self._pace.stop(request)
        self._prefixes.leave(request, has_ended=False)
        self._leave_device(request)
        request.is_queued = True

    def _move(self, move: plan.Move) -> None:
        request = self._running[move.request]
        self._moves[move.move] = move
        request.move = move.move
        self._prefixes.charge(request, move.target, pages=move.pages)
        if self._settings.are_moves_instant:
            self._move_at_once(request, target=move.target)
            self._soon.append(events.MoveCommitted(move=move.move))
        else:
            self._carriage.ask(move)

    def _move_at_once(self, request: Request, *, target: DeviceGroupId) -> None:
        tokens = self._pace.moved_tokens(request)
        each = self._settings.held_bytes_per_token(request.model, tokens=max(1, tokens))
        new = tokens - min(tokens, self._prefixes.count_cached(request, target))
        self.meter.moved(self.now_s, tokens, link_bytes=new * each)

    def _come(self, move_id: MoveId) -> None:
        """A request is at its target, unless it has ended meanwhile."""
        move = self._moves.pop(move_id, None)
        if move is None:
            return
        request = self._running[move.request]
        request.device, request.move = move.target, None
        self._prefixes.moved(request, target=move.target)
        self._pace.arrive(request)

    def _commit(self, move: MoveId, number: int) -> None:
        if move not in self._called_off:
            self._tell(events.MoveCommitted(move=move))

    def _begin_moves(self) -> None:
        """Begins what the links and the targets can take; counts what they cannot."""
        meter = self.meter
        division = self._carriage.divide(self._demand_of)
        begun: list[Begun] = []
        for demand, mode in division.begun:
            ends_s = self._delivery.begin(demand, mode=mode)
            meter.moved(
                self.now_s,
                demand.tokens,
                link_bytes=demand.link_bytes(mode),
                is_replayed=mode is Mode.TOKENS,
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
        if request is None or move.move not in self._moves:
            return None
        tokens = max(1, self._pace.moved_tokens(request))
        cached = min(tokens, self._prefixes.count_cached(request, move.target))
        return self._carriage.demand(
            move, model=request.model, tokens=tokens, cached_tokens=cached
        )

    # Losses.

    def _lose(self, device: DeviceGroupId) -> None:
        """A device is gone with all that it holds, if it is in use."""
        if device not in self._open:
            return
        self._losses.note_device(device)
        self._open.lose(device, now_s=self.now_s)
        ending = [m for m in self._moves.values() if device in (m.source, m.target)]
        for move in ending:
            del self._moves[move.move]
            self._called_off.add(move.move)
            request = self._running[move.request]
            request.move = None
            self._pace.call_off(request)
            self._prefixes.call_off(request, target=move.target)
        self._tell(events.DeviceLost(device=device))
        self._pace.closed(device)
        self._prefixes.closed(device)
        self._agenda.note(
            self.now_s + self._settings.repair_s,
            self._tell_later,
            events.DeviceAdded(device=device, kind=self._kinds[device].kind),
        )

    # Epochs.

    def _sample(self) -> None:
        """Utilisation counts placed requests once; the bound is the workload's."""
        placed = [r for r in self._running.values() if not r.is_queued]
        used = sum(self._held(request) for request in placed)
        capacity = self._open.capacity_pages
        bound = 0
        if self._settings.do_bounds and (demand := next(self._demands, None)):
            bound = bound_of(demand, settings=self._settings)
            if self.meter.money is not None:
                least = price_bound_of(demand, settings=self._settings)
                self.meter.money.sample(self.now_s, bound=least)
        self.meter.sample(
            self.now_s,
            devices=len(self._open),
            utilization=used / capacity if capacity else 0.0,
            bound=bound,
        )
