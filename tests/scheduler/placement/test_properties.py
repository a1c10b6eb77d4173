"""What must hold for every policy, whatever happens: state machines by hypothesis."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mell_jax.scheduler.ids import (
    DeviceGroupId,
    KindId,
    ModelId,
    MoveId,
    RequestId,
)
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.accounts import (
    InstanceAccount,
    RequestAccount,
    Reservation,
)
from mell_jax.scheduler.placement.kind import ONLY_KIND, DeviceKind
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.placement.plan_executor import PlanExecutor
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from tests.scheduler.placement.world import World

SMALL, TIMED = ModelId("small"), ModelId("timed")
MODELS = {
    SMALL: ModelSpec(capacity_pages=16, growth_pages_per_s=1.0),
    TIMED: ModelSpec(
        capacity_pages=24,
        growth_pages_per_s=0.5,
        step_time=StepTime(fixed_s=1.0, row_s=1.0, page_s=0.25),
        step_budget_s=8.0,  # three rows may hold 16 pages, one row 24
        load_s=2.0,
    ),
}
SEVERAL = tuple(sorted(set(POLICIES) - {"mell"}))  # may have several kinds
WAITING = PolicyConfig(place_wait_s=0.5)
STEPS = settings(
    max_examples=25,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


BIG, SLOW, SPOT = KindId("big"), KindId("slow"), KindId("spot")
KINDS = {
    BIG: DeviceKind(
        models={
            SMALL: ModelSpec(capacity_pages=24, growth_pages_per_s=1.0),
            TIMED: replace(MODELS[TIMED], load_s=1.0),
        },
        price_per_hour=3.0,
    ),
    SLOW: DeviceKind(
        models={SMALL: ModelSpec(capacity_pages=10, growth_pages_per_s=0.5)},
        price_per_hour=0.8,
        speed=0.5,
    ),
    SPOT: DeviceKind(models=MODELS),
}


class Fleets(RuleBasedStateMachine):
    """Two equal machines and the world that obeys them."""

    policy = "best_fit"
    policies: tuple[str, ...] = tuple(sorted(POLICIES))
    config = WAITING
    kinds: dict[KindId, DeviceKind] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.machines = [
            Machine(
                models=MODELS,
                policy=POLICIES[self.policy](self.config),
                kinds=self.kinds,
            )
            for _ in range(2)
        ]
        self.now_s = 0.0
        self.world = World(MODELS, kinds=self.kinds)
        self.next_request = 0
        self.next_device = 0
        for _ in range(4):
            self.add_device()

    def tell(self, event: events.Event) -> None:
        first, second = (
            machine.step(event, now_s=self.now_s) for machine in self.machines
        )
        assert first == second, "equal events, different plans"
        self.world.follow(event, first)

    def pick(self, choice: int, options: list[Any]) -> Any:
        return options[choice % len(options)]

    @rule(
        pages=st.integers(1, 12),
        is_timed=st.booleans(),
        cached=st.booleans(),
        tenant=st.sampled_from(["", "", "", "a", "b"]),
    )
    def arrive(self, pages: int, is_timed: bool, cached: bool, tenant: str) -> None:
        prefix = (events.Cached(device=DeviceGroupId(0), pages=1),) if cached else ()
        self.tell(
            events.Arrive(
                request=RequestId(self.next_request),
                pages=pages,
                model=TIMED if is_timed else SMALL,
                peak_pages=min(16, pages + 4),
                prefix=prefix,
                tenant=tenant,
                weight={"": 1.0, "a": 1.0, "b": 2.5}[tenant],
            )
        )
        self.next_request += 1

    def growing(self) -> list[RequestId]:
        """Placed, not paused, and within the peak that was announced."""
        return [
            request
            for request, home in self.world.home.items()
            if home is not None
            and request not in self.world.wanted
            and self.world.pages[request] < 16
        ]

    @precondition(lambda self: self.growing())
    @rule(choice=st.integers(0, 10**6), more=st.sampled_from([1, 1, 1, 2]))
    def grow(self, choice: int, more: int) -> None:
        request = self.pick(choice, self.growing())
        pages = min(16, self.world.pages[request] + more)
        self.tell(events.Grow(request=request, pages=pages))

    def growing_in_flight(self) -> list[RequestId]:
        moving = {move.request for move in self.world.moves.values()}
        return [request for request in self.growing() if request in moving]

    @precondition(lambda self: self.growing_in_flight())
    @rule(choice=st.integers(0, 10**6))
    def grow_in_the_middle_of_a_move(self, choice: int) -> None:
        """Both ends must have room for the page, or it has to wait."""
        request = self.pick(choice, self.growing_in_flight())
        self.tell(events.Grow(request=request, pages=self.world.pages[request] + 1))

    @precondition(lambda self: self.world.home)
    @rule(choice=st.integers(0, 10**6))
    def finish(self, choice: int) -> None:
        self.tell(events.Finish(request=self.pick(choice, list(self.world.home))))

    @precondition(lambda self: self.world.moves)
    @rule(choice=st.integers(0, 10**6))
    def commit(self, choice: int) -> None:
        self.tell(events.MoveCommitted(move=self.pick(choice, list(self.world.moves))))

    @precondition(lambda self: self.world.moves)
    @rule(choice=st.integers(0, 10**6))
    def abort(self, choice: int) -> None:
        self.tell(events.MoveAborted(move=self.pick(choice, list(self.world.moves))))

    @rule(move=st.integers(0, 30))
    def hear_of_an_old_move(self, move: int) -> None:
        if MoveId(move) not in self.world.moves:
            before = dict(self.world.home)
            self.tell(events.MoveCommitted(move=MoveId(move)))
            assert self.world.home == before

    @rule(seconds=st.sampled_from([0.0, 1.0, 3.0]))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(events.Tick(now_s=self.now_s))

    @precondition(lambda self: self.machines[0].wake_s < math.inf)
    @rule()
    def wake(self) -> None:
        """One has waited long enough: from now on it waits for room only."""
        held_s = self.machines[0].wake_s
        assert held_s > self.now_s, "it was to be woken before"
        self.now_s = held_s
        self.tell(events.Wake())
        assert self.machines[0].wake_s > self.now_s

    @precondition(lambda self: self.next_device < 8)
    @rule()
    def add_device(self) -> None:
        self.tell(self.added(DeviceGroupId(self.next_device)))
        self.next_device += 1

    def added(self, device: DeviceGroupId) -> events.DeviceAdded:
        """Kinds take turns, so that there are some of each."""
        names = list(self.kinds or {ONLY_KIND: None})
        return events.DeviceAdded(device=device, kind=names[device % len(names)])

    def devices(self) -> list[DeviceGroupId]:
        """Those in the fleet that are not to leave it."""
        machine = self.machines[0]
        ledger = machine.ledger
        known = [*map(DeviceGroupId, range(self.next_device))]
        return [
            device
            for device in known
            if (device in ledger.instances or ledger.is_idle(device))
            and not machine.is_draining(device)
        ]

    def gone_devices(self) -> list[DeviceGroupId]:
        """Those that have left the fleet, or are about to."""
        known = [*map(DeviceGroupId, range(self.next_device))]
        return [device for device in known if device not in self.devices()]

    @precondition(lambda self: self.gone_devices())
    @rule(choice=st.integers(0, 10**6))
    def add_again(self, choice: int) -> None:
        device = self.pick(choice, self.gone_devices())
        self.tell(self.added(device))
        assert device in self.devices()

    @rule(choice=st.integers(0, 10**6), look_s=st.sampled_from([None, 3.0]))
    def adopt_another_policy(self, choice: int, look_s: float | None) -> None:
        name = self.pick(choice, list(self.policies))
        config = replace(self.config, place_wait_s=0.0, look_s=look_s)
        first, second = (
            machine.adopt(POLICIES[name](config)) for machine in self.machines
        )
        assert first == second
        self.world.obey(first)

    def present(self) -> list[DeviceGroupId]:
        """Those in the fleet, also those that are to leave it."""
        draining = filter(self.machines[0].is_draining, self.gone_devices())
        return [*self.devices(), *draining]

    @precondition(lambda self: self.present())
    @rule(choice=st.integers(0, 10**6))
    def lose(self, choice: int) -> None:
        self.tell(events.DeviceLost(device=self.pick(choice, self.present())))

    @precondition(lambda self: self.devices())
    @rule(choice=st.integers(0, 10**6))
    def remove(self, choice: int) -> None:
        self.tell(events.DeviceRemoved(device=self.pick(choice, self.devices())))

    @invariant()
    def nothing_is_over_capacity_and_the_books_agree_with_the_world(self) -> None:
        self.world.check()
        ledger = self.machines[0].ledger
        ledger.check()
        homes = {r.id: r.device for r in ledger.requests.values()}
        assert homes == self.world.home
        sizes = {r.id: r.pages for r in ledger.requests.values()}
        assert sizes == self.world.pages
        assert set(ledger.moves) == set(self.world.moves)
        waiting = [home for home in self.world.home.values() if home is None]
        assert self.machines[0].waiting == len(waiting)


FIRST_FAILURE = settings(
    STEPS, phases=(Phase.generate,), report_multiple_bugs=False, max_examples=100
)
"""For what must fail: the smallest example is of no interest."""


class KindsFleets(Fleets):
    """The same with devices of several kinds, and room for what is lost."""

    policies = SEVERAL
    config = replace(WAITING, reserve=1)
    kinds = KINDS


@pytest.mark.parametrize("policy", SEVERAL)
def test_the_books_balance_with_several_kinds_and_losses(policy: str) -> None:
    chosen = policy

    class Chosen(KindsFleets):
        policy = chosen

    run_state_machine_as_test(Chosen, settings=settings(STEPS, max_examples=15))


def run(policy: str, *, steps: settings = STEPS) -> None:
    chosen = policy

    class Chosen(Fleets):
        policy = chosen

    run_state_machine_as_test(Chosen, settings=steps)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_keeps_within_capacity_and_the_books_balance(policy: str) -> None:
    run(policy)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nobody_is_where_a_device_is_taken_for_another_model(policy: str) -> None:
    """Who is to move away in the same plan is still there."""
    chosen = policy

    class Chosen(Fleets):
        policy = chosen

    fleets = Chosen()
    fleets.arrive(cached=False, is_timed=True, pages=1, tenant="")
    fleets.lose(choice=0)
    fleets.arrive(cached=False, is_timed=False, pages=4, tenant="")
    fleets.arrive(cached=False, is_timed=True, pages=12, tenant="")
    fleets.grow(choice=44, more=1)
    fleets.grow(choice=1, more=1)
    fleets.tick(seconds=0.0)
    fleets.nothing_is_over_capacity_and_the_books_agree_with_the_world()


def begin_without_reservation(
    self: PlanExecutor,
    request: RequestAccount,
    target: InstanceAccount,
    *,
    is_urgent: bool,
) -> None:
    """As `PlanExecutor._begin_move`, but the target's room is not taken until the
    commit.
    """
    ledger = self._ledger
    assert request.device is not None
    move_id, self._next_move = MoveId(self._next_move), self._next_move + 1
    source = ledger.instances[request.device]
    del source.requests[request.id]
    ledger.leave(source, pages=request.pages)
    target.arriving[request.id] = request
    request.move = move_id
    move = plan.Move(
        move=move_id,
        request=request.id,
        source=source.device,
        target=target.device,
        pages=request.pages,
        is_urgent=is_urgent,
    )
    ledger.moves[move_id] = Reservation(request=request, move=move)
    self.decisions.append(move)


def test_a_machine_that_reserves_nothing_for_moves_in_flight_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PlanExecutor, "_begin_move", begin_without_reservation)
    with pytest.raises(AssertionError):
        run("consolidate", steps=FIRST_FAILURE)
