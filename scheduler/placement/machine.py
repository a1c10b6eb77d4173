"""The placement machine turns events into plans: `plan = machine.step(event)`.

    event -> ledger -> policy drafts -> executor -> plan
                         ^                 |  freed room: stalled growth, deferred
                         `-----------------'  moves, queues, empty instances

It owns the ledger and the queues; it has no clock, no randomness and no I/O, so equal
events at equal times give equal plans. The engine, the simulator and the property tests
drive it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mell_jax.scheduler.fair_queue import FairQueue
from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.admission import admit
from mell_jax.scheduler.placement.fairness import choose_victim
from mell_jax.scheduler.placement.kind import DeviceKind
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan_executor import PlanExecutor
from mell_jax.scheduler.placement.policy import Policy
from mell_jax.scheduler.placement.shares import choose_preempted, serve_parts

AHEAD_SHARE = 16
"""Of the pages that an instance has free one of so many goes to a row beforehand."""


class Machine:
    """The machine places the requests of one fleet by one policy.

    Args:
      models: what is true of each model on any device; without `kinds`, what an
        instance of it can hold.
      policy: decides; it must not be shared with another machine.
      kinds: what each kind of devices can hold, and its price; None: there is one.
      may_go: tells whether a request may be on a device group; that may change between
        two steps, and what waits is looked at again by the next tick.
    """

    def __init__(
        self,
        *,
        models: Mapping[ModelId, ModelSpec],
        policy: Policy,
        kinds: Mapping[KindId, DeviceKind] | None = None,
        may_go: Callable[[RequestId, DeviceGroupId], bool] | None = None,
    ) -> None:
        if not models:
            raise ValueError("a fleet serves at least one model, got none")
        self.ledger = Ledger(models, look_s=policy.look_s, kinds=kinds)
        self._policy = policy
        self._executor = PlanExecutor(self.ledger, may_go=may_go)
        self._draft = self._executor.draft
        self._queues = {
            model: FairQueue[RequestAccount](
                quantum=1, patience=self.ledger.limit(model)
            )
            for model in models
        }
        self._aside: dict[RequestId, RequestAccount] = {}  # may not go where room is
        self._closing: dict[DeviceGroupId, ModelId | None] = {}  # who claims it, if any
        self._heir: ModelId | None = None  # claimed what was just emptied
        self._claimed: set[ModelId] = set()  # device groups, in this step
        self._may_queues_move = False
        self._arrivals = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.Arrive: self._arrive,
            events.Grow: self._grow,
            events.Finish: self._finish,
            events.Relocate: self._relocate,
            events.Tick: self._tick,
            events.Wake: self._wake,
            events.DeviceAdded: self._device_added,
            events.DeviceRemoved: self._device_removed,
            events.DeviceLost: lambda event: self._lose([event.device]),
            events.DevicesLost: lambda event: self._lose(event.devices),
            events.Activated: self._activated,
            events.MoveCommitted: self._move_committed,
            events.MoveAborted: self._move_aborted,
            events.Serving: self._serves,
            events.Adopt: self._adopt,
            events.Displace: self._displace,
        }

    def step(self, event: events.Event, *, now_s: float | None = None) -> plan.Plan:
        """Takes one event and answers with what to do.

        Args:
          now_s: when it happens; None is the time of the event before.

        Raises:
          ValueError: the event names something unknown or contradicts the books, for
            example a request that grows to fewer pages than it has; or time goes back.
        """
        if now_s is not None:
            self._set_clock(now_s)
        self._claimed.clear()
        self._handlers[type(event)](event)
        return self._settle()

    def extend(self, request_id: RequestId, *, pages: int, most: int) -> int:
        """Gives a request pages where it is, if that changes nothing for anybody else.

        It is what most growth comes to, without a plan; `step` decides about the rest.

        Args:
          pages: that it needs in all.
          most: beyond these, of which it gets as many as a small share of what is free
            allows, so that it need not come again soon.

        Returns:
          The pages that it has then: fewer than it needs if there is no room, or if
          others wait for room there, or while it is moved or waits.
        """
        ledger = self.ledger
        request = ledger.requests[request_id]
        more = pages - request.pages
        if more <= 0 or request.device is None or request.move is not None:
            return request.pages
        instance = ledger.instances[request.device]
        left = ledger.slack(instance) - more
        if left < 0 or instance.stalled:
            return request.pages
        if left >= AHEAD_SHARE and most:
            more += request.ahead(left // AHEAD_SHARE, pages=pages, most=most)
        before, request.pages = request.pages, request.pages + more
        ledger.charge(instance, pages=more, rows=0)
        request.tenant.charge(pages=more)
        self._queues[request.model].charge(request.tenant.tenant.name, cost=more)
        self._policy.grown(self._draft, request, before)
        assert not self._draft.is_touched, "a policy acts on growth that has room"
        return request.pages

    def adopt(self, policy: Policy) -> plan.Plan:
        """Goes on under another policy, over the same books; answers as `step` does.

        Requests stay where they are until the policy moves them. Moves that have begun
        go on; those put off for want of room are forgotten.

        Args:
          policy: new; it must not be shared with another machine.
        """
        self._claimed.clear()
        self._policy = policy
        self._executor.drop_deferred()
        self.ledger.look_ahead(policy.look_s)
        self._executor.freed.update(dict.fromkeys(self.ledger.instances))
        self._may_queues_move = True
        return self._settle()

    @property
    def wake_s(self) -> float:
        """Tells when to send `Wake` unless something happens before; inf for never."""
        now_s = self.ledger.now_s
        held = (
            head.held_until_s
            for queue in self._queues.values()
            for head in queue.heads()
        )
        return min((until_s for until_s in held if until_s > now_s), default=math.inf)

    def _set_clock(self, now_s: float) -> None:
        if not (now_s >= self.ledger.now_s):
            raise ValueError(f"time goes back: {self.ledger.now_s} to {now_s} s")
        if now_s >= self.wake_s:
            self._may_queues_move = True
        self.ledger.now_s = now_s

    def _settle(self) -> plan.Plan:
        while self._executor.freed or self._may_queues_move:
            self._use_freed()
        decisions = self._executor.decisions
        if not decisions:
            return plan.NOTHING
        self._executor.decisions = []
        return plan.Plan(decisions=tuple(decisions))

    @property
    def waiting(self) -> int:
        """Returns the number of requests without a place."""
        return sum(map(len, self._queues.values())) + len(self._aside)

    def is_draining(self, device: DeviceGroupId) -> bool:
        """Tells whether it is being given back, and not to another model."""
        return device in self._closing and self._closing[device] is None

    # Events.

    def _arrive(self, event: events.Arrive) -> None:
        request = self._let_in(event)
        if request is None:
            return
        queue = self._queues[event.model]
        tenant = request.tenant.tenant
        if not queue:
            self._seek(request)
        if self._executor.is_barred(request):
            self._aside[request.id] = request
            self._executor.decisions.append(plan.Wait(request=request.id))
        elif request.device is None:
            queue.push(request, tenant=tenant, cost=request.pages)
            is_next = queue.head(tenant.name) is request
            if is_next and self.ledger.tenants.is_shared(event.model):
                self._serve(event.model)
        if request in queue:  # and was not placed and had to make room in its turn
            self._executor.decisions.append(plan.Wait(request=request.id))
            self._claim(queue.head(tenant.name))

    def _let_in(self, event: events.Arrive) -> RequestAccount | None:
        """Enters a request in the books, without a place; None if it is rejected."""
        if event.request in self.ledger.requests:
            raise ValueError(f"request {event.request} has arrived before: use new ids")
        if event.model not in self._queues:
            raise ValueError(
                f"unknown model {event.model!r}; served: {sorted(self._queues)}"
            )
        if not (event.pages >= 1):
            raise ValueError(f"a request needs at least 1 page, got {event.pages}")
        request = admit(event, ledger=self.ledger, serial=self._arrivals + 1)
        if isinstance(request, plan.Reject):
            self._executor.decisions.append(request)
            return None
        self._arrivals += 1
        if event.prefix:
            held = {cached.device: cached.pages for cached in event.prefix}
            self.ledger.prefix[event.request] = held
        return request

    def _serves(self, event: events.Serving) -> None:
        self._device_added(events.DeviceAdded(device=event.device))
        self.ledger.open(event.device, event.model)

    def _adopt(self, event: events.Adopt) -> None:
        instance = self._serving(event.device)
        request = self._let_in(event.arrival)
        if request is None:
            return
        if instance.model == request.model and self.ledger.fits(
            instance, request.pages
        ):
            self.ledger.settle(request, event.device)
        else:
            self._executor.decisions.append(
                plan.Preempt(request=request.id, device=event.device)
            )
            self._queues[request.model].push(
                request, tenant=request.tenant.tenant, cost=request.pages
            )
            self._may_queues_move = True

    def _displace(self, event: events.Displace) -> None:
        request = self._known(event.request)
        if request.move is not None:
            self._executor.end_move(request.move, is_committed=False)
        if request.device is not None:
            self._executor.preempt(request)

    def _grow(self, event: events.Grow) -> None:
        request = self._known(event.request)
        if request.device is None or event.pages <= request.pages:
            raise ValueError(
                f"request {request.id} has {request.pages} pages on {request.device}: "
                f"it cannot grow to {event.pages}"
            )
        before = request.pages
        if self._extend(request, event.pages):
            self._policy.grown(self._draft, request, before)
            self._executor.apply()
        elif event.pages > self.ledger.limit(request.model):
            self._forget(request)
            self._reject(request.id)
        else:
            self._stall(request, event.pages)

    def _finish(self, event: events.Finish) -> None:
        request = self._known(event.request)
        home = request.device
        self._forget(request)
        self.ledger.finished(request)
        if home is not None:
            instance = self.ledger.instances[home]
            self._policy.departed(self._draft, instance, request.pages)
            self._executor.apply()

    def _relocate(self, event: events.Relocate) -> None:
        request, target = self._known(event.request), self._serving(event.device)
        is_free = request.device is not None and request.move is None
        size = self.ledger.wanted_pages(request)
        fits = target.model == request.model and self.ledger.fits(
            target, size, peak=request.most_pages
        )
        if is_free and fits:
            self._draft.shift(request, target.device)
            self._executor.apply()

    def _tick(self, event: events.Tick) -> None:
        self._set_clock(event.now_s)
        self._executor.drop_deferred()
        self._policy.epoch(self._draft)
        self._executor.apply()
        if self._policy.look_s != self.ledger.look_s:
            self.ledger.look_ahead(self._policy.look_s)
        for device in self._closing:
            self._evacuate(self.ledger.instances[device])
        self._return_aside()
        self._may_queues_move = True

    def _wake(self, event: events.Wake) -> None:
        """Nothing: `step` has set the clock, so queues are looked at again."""

    def _device_added(self, event: events.DeviceAdded) -> None:
        if self.is_draining(event.device):
            self._keep(self.ledger.instances[event.device])
            return
        if event.device in self.ledger.instances or self.ledger.is_idle(event.device):
            raise ValueError(f"device {event.device} is in the fleet already")
        self.ledger.add_idle(event.device, kind=event.kind)
        self._may_queues_move = True

    def _device_removed(self, event: events.DeviceRemoved) -> None:
        if self.ledger.is_idle(event.device):
            self.ledger.drop_idle(event.device)
            return
        self._give_back(self._serving(event.device), heir=None)

    def _lose(self, devices: Sequence[DeviceGroupId]) -> None:
        """Takes device groups out of the books, and then looks for room elsewhere."""
        idle = set(filter(self.ledger.is_idle, devices))
        lost = [self._serving(device) for device in devices if device not in idle]
        for device in idle:
            self.ledger.drop_idle(device)
        ends = {instance.device for instance in lost}
        for move_id, move in list(self.ledger.moves.items()):
            if move.source in ends or move.target in ends:
                self._executor.end_move(move_id, is_committed=False)
        requests = [request for each in lost for request in each.requests.values()]
        for request in sorted(requests, key=lambda request: -request.serial):
            self._executor.preempt(request)
        for instance in lost:
            self._closing.pop(instance.device, None)
            self._executor.freed.pop(instance.device, None)
            self.ledger.close(instance.device, is_idle=False)
        self._may_queues_move = True

    def _activated(self, event: events.Activated) -> None:
        self.ledger.learn_loading(event.model, kind=event.kind, load_s=event.took_s)

    def _move_committed(self, event: events.MoveCommitted) -> None:
        if event.move in self.ledger.moves:  # else it ended before: nothing is owed
            self._executor.end_move(event.move, is_committed=True)

    def _move_aborted(self, event: events.MoveAborted) -> None:
        if event.move in self.ledger.moves:
            self._executor.end_move(event.move, is_committed=False)

    # Growth.

    def _ends(self, request: RequestAccount) -> list[InstanceAccount]:
        """Returns where a placed request holds pages: two instances during a move."""
        assert request.device is not None
        ends = [self.ledger.instances[request.device]]
        if request.move is not None:
            ends.append(self.ledger.instances[self.ledger.moves[request.move].target])
        return ends

    def _extend(self, request: RequestAccount, pages: int) -> bool:
        """Gives a request `pages` wherever it holds any, if all of them have room."""
        ledger = self.ledger
        more = pages - request.pages
        ends = self._ends(request)
        for instance in ends:
            if ledger.slack(instance) < more:
                return False
        for instance in ends:
            ledger.charge(instance, pages=more, rows=0)
        if request.move is not None:
            ledger.leave(ends[0], pages=more)
        request.pages = pages
        request.tenant.charge(pages=more)
        self._queues[request.model].charge(request.tenant.tenant.name, cost=more)
        return True

    def _stall(self, request: RequestAccount, pages: int) -> None:
        """Lets a request pause until its instances have been relieved."""
        for instance in self._ends(request):
            instance.stalled[request.id] = pages
            self._executor.freed[instance.device] = None
        self._executor.decisions.append(plan.Wait(request=request.id))

    def _lack(self, instance: InstanceAccount) -> int:
        """Returns the pages that stalled requests lack and no move in flight frees."""
        requests = self.ledger.requests
        wanted = sum(
            pages - requests[request].pages
            for request, pages in instance.stalled.items()
        )
        return wanted - self.ledger.slack(instance) - instance.leaving_pages

    def _relieve(self, instance: InstanceAccount) -> None:
        """Frees what stalled requests of an instance want: by moves, or by force."""
        self._release_outgrown(instance)
        lack = self._lack(instance)
        if lack <= 0:
            return
        self._policy.overflow(self._draft, instance, lack)
        self._executor.apply(is_urgent=True)
        while self._lack(instance) > 0 and instance.requests:
            self._executor.preempt(choose_preempted(self.ledger, instance))

    def _release_outgrown(self, instance: InstanceAccount) -> None:
        """Takes away who wants more than its kind of device can ever hold.

        It moves to a larger kind, or starts again there from its tokens.
        """
        limit = instance.books.limit
        for request_id in [r for r, n in instance.stalled.items() if n > limit]:
            request = instance.requests.get(request_id)
            if request is None:
                continue  # it is on its way to or from here
            pages = self.ledger.wanted_pages(request)
            device = self.ledger.best_fit(request.model, pages, peak=pages)
            if device is None:
                opened = self._draft.activate(request.model, peak=pages)
                device = opened.device if opened is not None else None
            if device is not None:
                self._draft.shift(request, device)
                self._executor.apply(is_urgent=True)
            if request.move is None:
                self._executor.preempt(request)

    def _grant(self, instance: InstanceAccount) -> None:
        """Lets stalled requests go on, as far as there is room."""
        for request_id, pages in list(instance.stalled.items()):
            if request_id not in instance.stalled:
                continue  # the policy took it elsewhere meanwhile
            request = self.ledger.requests[request_id]
            before = request.pages
            if self._extend(request, pages):
                for end in self._ends(request):
                    del end.stalled[request_id]
                assert request.device is not None
                self._executor.decisions.append(
                    plan.Place(request=request_id, device=request.device, pages=pages)
                )
                self._policy.grown(self._draft, request, before)
                self._executor.apply()

    # Room.

    def _use_freed(self) -> None:
        """Looks again at what changed: growth first, then moves, queues, empties."""
        executor = self._executor
        touched: dict[DeviceGroupId, None] = {}
        while executor.freed:
            freed, executor.freed = executor.freed, {}
            touched |= freed
            for device in freed:
                instance = self.ledger.instances.get(device)
                if instance is not None and instance.stalled:
                    self._grant(instance)
                    self._relieve(instance)
        executor.retry_deferred()
        self._may_queues_move = False
        for request in executor.preempted:
            queue = self._queues[request.model]
            queue.put_back(request, tenant=request.tenant.tenant)
        executor.preempted.clear()
        for model in sorted(self._queues, key=lambda model: model != self._heir):
            if self._queues[model]:
                self._serve(model)
        self._heir = None
        for device in touched:
            instance = self.ledger.instances.get(device)
            if instance is not None and instance.rows == 0:
                self._emptied(instance)

    def _serve(self, model: ModelId) -> None:
        """Places from the heads of a queue, in turns, as long as there is room."""
        queue = self._queues[model]
        for tenant in queue.turns():
            request = queue.head(tenant)
            assert request.device is None, f"request {request.id} waits with a place"
            self._seek(request)
            if request.device is not None:
                queue.take(request)
            elif self._executor.is_barred(request):
                queue.discard(request)  # nobody is to wait behind it
                self._aside[request.id] = request
            else:
                queue.refuse(tenant)
                self._claim(request)
        if queue and self.ledger.tenants.is_shared(model):
            serve_parts(queue, model, executor=self._executor, ledger=self.ledger)

    def _seek(self, request: RequestAccount) -> None:
        """Places a request if there is room for it where it may be."""
        self._policy.arrive(self._draft, request)
        self._executor.apply()
        if request.device is None and self._executor.is_barred(request):
            self._executor.detour(request)

    def _return_aside(self) -> None:
        """Queues those again that may not have gone where there was room."""
        aside, self._aside = self._aside, {}
        for request in reversed(aside.values()):
            queue = self._queues[request.model]
            queue.put_back(request, tenant=request.tenant.tenant)

    def _claim(self, request: RequestAccount) -> None:
        """Has an instance of another model emptied, if a waiting one is entitled.

        Its requests move to others; those that fit nowhere are computed again later.
        """
        model = request.model
        if request.held_until_s > self.ledger.now_s:
            return  # a device is there, the policy only waits with it
        if model in self._claimed or any(
            heir is not None for heir in self._closing.values()
        ):
            return  # one at a time
        demanding = sum(
            bool(queue) or self.ledger.total_pages(name) > 0
            for name, queue in self._queues.items()
        )
        victim = choose_victim(
            self.ledger, claimant=model, demanding=demanding, peak=request.most_pages
        )
        if victim is None:
            return
        self._claimed.add(model)
        self._give_back(victim, heir=model)
        while victim.requests:
            youngest = max(victim.requests.values(), key=lambda r: r.serial)
            self._executor.preempt(youngest)

    def _give_back(self, instance: InstanceAccount, *, heir: ModelId | None) -> None:
        """Takes nothing new on an instance, and moves away what it holds."""
        instance.is_closing = True
        self._closing[instance.device] = heir
        self.ledger.refile(instance)
        self._evacuate(instance)
        self._executor.freed[instance.device] = None

    def _keep(self, instance: InstanceAccount) -> None:
        """Undoes `_give_back`; what has moved away stays there."""
        instance.is_closing = False
        del self._closing[instance.device]
        self.ledger.refile(instance)
        self._executor.freed[instance.device] = None
        self._may_queues_move = True

    def _emptied(self, instance: InstanceAccount) -> None:
        if instance.is_closing:
            self._heir = self._closing.pop(instance.device)
            is_claimed = self._heir is not None
            self.ledger.close(instance.device, is_idle=is_claimed)
            self._executor.decisions.append(plan.Park(device=instance.device))
            self._may_queues_move |= is_claimed
        else:
            self._policy.emptied(self._draft, instance)
            self._executor.apply()

    def _evacuate(self, instance: InstanceAccount) -> None:
        """Moves what it can off an instance that is to be given back."""
        draft, ledger = self._draft, self.ledger
        for request in sorted(instance.requests.values(), key=lambda r: -r.pages):
            peak = request.most_pages
            device = ledger.best_fit(request.model, request.pages, peak=peak)
            target = ledger.instances[device] if device is not None else None
            target = target or draft.activate(request.model, peak=peak)
            if target is not None:
                draft.shift(request, target.device)
        self._executor.apply()

    # Books.

    def _reject(self, request: RequestId) -> None:
        reason = plan.RejectReason.TOO_LARGE
        self._executor.decisions.append(plan.Reject(request=request, reason=reason))

    def _forget(self, request: RequestAccount) -> None:
        """Removes a request from wherever it is."""
        if request.move is not None:
            self._executor.end_move(request.move, is_committed=False)
        if request.device is not None:
            instance = self.ledger.instances[request.device]
            instance.stalled.pop(request.id, None)
            self._executor.freed[request.device] = None
            self.ledger.settle(request, None)
        self._aside.pop(request.id, None)
        if self._queues[request.model].discard(request):
            self._may_queues_move = True  # it may have been what others waited for
        self.ledger.tenants.leave(request.tenant)
        del self.ledger.requests[request.id]
        self.ledger.prefix.pop(request.id, None)

    def _known(self, request: RequestId) -> RequestAccount:
        if request not in self.ledger.requests:
            raise ValueError(
                f"unknown request {request}: it never arrived or has ended"
            )
        return self.ledger.requests[request]

    def _serving(self, device: DeviceGroupId) -> InstanceAccount:
        if device not in self.ledger.instances:
            raise ValueError(f"unknown device {device}")
        return self.ledger.instances[device]
