"""A shadow follows a fleet by another policy, and its books balance all the while."""

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.device_seconds import DeviceSeconds
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.placement.shadow import Shadow
from mell_jax.scheduler.policies import POLICIES
from tests.scheduler.placement.test_properties import MODELS, STEPS, Fleets
from tests.scheduler.policy_harness import Fleet, drive

ONLY = {events.ONLY_MODEL: ModelSpec(capacity_pages=10)}
ONE, TWO = RequestId(1), RequestId(2)


def shadow_of(policy: str = "best_fit", *, devices: int = 2) -> Shadow:
    shadow = Shadow(models=ONLY, policy=POLICIES[policy](PolicyConfig()))
    for device in range(devices):
        shadow.tell(events.DeviceAdded(device=DeviceGroupId(device)), now_s=0.0)
    return shadow


def held(shadow: Shadow) -> dict[int, tuple[int | None, int]]:
    """Where each request is, and its pages."""
    return {
        request.id: (request.device, request.pages)
        for request in shadow._ledger.requests.values()
    }


class Followed(Fleets):
    """A shadow hears what a fleet of any other policy does."""

    shadow_policy = "best_fit"

    def __init__(self) -> None:
        policy = POLICIES[self.shadow_policy](PolicyConfig())
        self.shadow = Shadow(models=MODELS, policy=policy)
        super().__init__()

    def tell(self, event: events.Event) -> None:
        before = set(self.world.home)
        super().tell(event)
        self.shadow.tell(event, now_s=self.now_s)
        for request in before - set(self.world.home):  # rejected, or finished
            self.shadow.tell(events.Finish(request=request), now_s=self.now_s)

    @invariant()
    def the_shadow_has_the_same_requests_and_no_page_too_many(self) -> None:
        self.shadow.check()
        assert set(held(self.shadow)) <= set(self.world.home)
        rejected = set(self.world.home) - set(held(self.shadow))
        assert not rejected, f"{rejected} would have no place in the shadow's fleet"
        for request in self.shadow._ledger.requests.values():
            wanted = self.shadow._ledger.wanted_pages(request)
            wanted = max(wanted, self.shadow._wanted.get(request.id, 0))
            assert wanted >= self.world.pages[request.id], request.id


@pytest.mark.parametrize("policy", ["best_fit", "load_balance", "consolidate"])
def test_whatever_happens_to_a_fleet_its_shadow_keeps_up(policy: str) -> None:
    class Chosen(Followed):
        policy = "mell"
        shadow_policy = policy

    run_state_machine_as_test(Chosen, settings=settings(STEPS, max_examples=15))


class Doubled(Fleet):
    """A shadow hears all that a fleet does, whose moves take no time either."""

    def __init__(self, policy: str) -> None:
        self.shadow = shadow_of(policy, devices=0)
        super().__init__(policy, capacity=10, devices=30)

    def step(self, event: events.Event) -> list[plan.Decision]:
        decisions = super().step(event)
        self.shadow.tell(event, now_s=self.machine.ledger.now_s)
        assert self.shadow.devices == len(self.machine.ledger.instances), event
        return decisions


@pytest.mark.parametrize("policy", ["best_fit", "consolidate", "worst_fit"])
def test_a_shadow_by_the_fleets_own_policy_holds_the_same_devices(policy: str) -> None:
    fleet = Doubled(policy)
    most = max(fleet.shadow.devices for _ in drive(fleet, seed=3, epochs=60))
    assert most > 5


def test_who_has_no_place_there_grows_once_it_has_one() -> None:
    shadow = shadow_of(devices=1)
    shadow.tell(events.Arrive(request=ONE, pages=8), now_s=0.0)
    shadow.tell(events.Arrive(request=TWO, pages=4), now_s=1.0)
    assert held(shadow) == {1: (0, 8), 2: (None, 4)}
    shadow.tell(events.Grow(request=TWO, pages=5), now_s=2.0)
    shadow.tell(events.Grow(request=TWO, pages=6), now_s=3.0)
    assert held(shadow) == {1: (0, 8), 2: (None, 4)}
    shadow.tell(events.Finish(request=ONE), now_s=4.0)
    assert held(shadow) == {2: (0, 6)}


def test_moves_and_orders_of_the_fleet_itself_change_nothing_in_its_shadow() -> None:
    shadow = shadow_of()
    shadow.tell(events.Arrive(request=ONE, pages=8), now_s=0.0)
    for event in (
        events.Relocate(request=ONE, device=DeviceGroupId(1)),
        events.MoveCommitted(move=plan.MoveId(0)),
        events.MoveAborted(move=plan.MoveId(7)),
        events.DeviceAdded(device=DeviceGroupId(0)),
        events.DeviceLost(device=DeviceGroupId(9)),
        events.Grow(request=RequestId(5), pages=3),
        events.Grow(request=ONE, pages=8),
        events.Finish(request=RequestId(5)),
    ):
        shadow.tell(event, now_s=1.0)
    assert held(shadow) == {1: (0, 8)}
    assert shadow.devices == 1


def test_a_prefix_that_is_cached_in_the_fleet_is_not_in_its_shadow() -> None:
    shadow = shadow_of()
    prefix = (events.Cached(device=DeviceGroupId(1), pages=3),)
    shadow.tell(events.Arrive(request=ONE, pages=8, prefix=prefix), now_s=0.0)
    assert shadow._ledger.cached_pages(ONE, DeviceGroupId(1)) == 0


def test_what_contradicts_the_books_is_told() -> None:
    shadow = shadow_of()
    shadow.tell(events.Arrive(request=ONE, pages=1), now_s=1.0)
    with pytest.raises(ValueError, match="use new ids"):
        shadow.tell(events.Arrive(request=ONE, pages=1), now_s=1.0)
    with pytest.raises(ValueError, match="unknown model 'other'"):
        strange = events.Arrive(request=TWO, pages=1, model=ModelId("other"))
        shadow.tell(strange, now_s=1.0)
    with pytest.raises(ValueError, match="time goes back"):
        shadow.tell(events.Tick(now_s=0.5), now_s=0.5)


def test_device_seconds_are_counted_from_change_to_change() -> None:
    seconds = DeviceSeconds()
    assert seconds.total_s(5.0) == 0.0
    seconds.count(2, now_s=10.0)
    assert seconds.total_s(13.0) == 6.0
    seconds.count(2, now_s=14.0)
    seconds.count(1, now_s=20.0)
    assert seconds.total_s(20.0) == 20.0
    assert seconds.total_s(25.0) == 25.0
