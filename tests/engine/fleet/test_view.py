"""What a fleet shows of itself, and whether its counts agree with each other."""

import pytest

from mell_jax.engine.admin import (
    NameWeights,
    Pause,
    Resume,
    ServingState,
    Sleep,
    UpdateWeights,
    Wake,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.viewer import Viewer
from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
    MoveOutcome,
    MoveStage,
    ServingView,
    SleepState,
)
from mell_jax.engine.frames import Abort, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import PAGE_BYTES, TOY, toy_fleet
from tests.engine.fleet.versioned import ToyWeights
from tests.toy import submit

SHORT = SamplingParams(temperature=0.0, max_tokens=20)
SERVING = ServingState(is_paused=False, sleep_level=0, weights=())
KEEPS = SamplingParams(temperature=0.0, max_tokens=100)


def view_of(fleet: Fleet) -> FleetView:
    view = fleet.load().fleet
    assert view is not None
    return view


def look(fleet: Fleet) -> FleetView:
    """As it is at this very moment."""
    viewer = Viewer(
        fleet.conductor,
        devices=[DeviceGroupId(n) for n in range(3)],
        profile=Profile.unlimited([], models=[]),
        serving=lambda: SERVING,
    )
    return viewer.view(now_s=0.0, anew=True)


def run_dry(fleet: Fleet) -> list[FleetView]:
    """Steps until nothing is left to do; what was seen on the way."""
    views = []
    for _ in range(5000):
        fleet.step()
        views.append(look(fleet))
        if not fleet.has_work:
            return views
    raise AssertionError("still busy after 5,000 steps")


def assert_counts_agree(stats: FleetStats, view: FleetView) -> None:
    """Of a fleet at rest."""
    committed = stats.count(MoveOutcome.COMMITTED)
    for mode in Mode:
        ended = sum(n for kind, n in stats.ended.items() if kind.mode is mode)
        assert stats.begun.get(mode, 0) == ended
    assert committed + stats.count(MoveOutcome.ABORTED) == sum(stats.begun.values())
    assert sum(stats.carried.values()) == committed
    assert stats.gap_steps.count == stats.gap_s.count <= committed
    assert (stats.stages == 0) == (stats.sent_bytes == 0)
    assert stats.stages <= stats.sent_bytes
    gone = stats.parkings + stats.losses
    assert stats.activations == view.devices_in_use + gone
    lost = sum(instance.state is GroupState.LOST for instance in view.instances)
    assert stats.losses == lost
    assert stats.activation_s > 0.0


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_counts_agree_after_everything_moved_at_every_step(mode: Mode) -> None:
    fleet = toy_fleet(config=FleetConfig(mode=mode, fault=Fault(move_every=1)))
    for handle in range(14):
        submit(fleet, [handle + 1] * (handle * 7 + 1), handle=handle, params=SHORT)
    run_dry(fleet)
    view = view_of(fleet)
    assert_counts_agree(view.stats, view)
    assert view.stats == fleet.stats()
    assert set(view.stats.begun) == {mode}
    assert view.stats.stages >= 20
    assert view.stats.count(MoveOutcome.COMMITTED) >= 20
    if mode is Mode.KV:
        assert view.stats.sent_bytes % PAGE_BYTES == 0
    assert view.moves == ()
    assert fleet.load().generated_tokens == 14 * 20


def test_counts_agree_where_pages_are_short_and_a_device_fails() -> None:
    fault = Fault(raise_on=(DeviceGroupId(1), 40))
    fleet = toy_fleet(num_pages=12, config=FleetConfig(fault=fault))
    for handle in range(24):
        params = SamplingParams(temperature=0.0, max_tokens=50)
        prompt = [handle + 1] * (handle * 5 % 60 + 1)
        submit(fleet, prompt, handle=handle, params=params)
    views = run_dry(fleet)
    last = views[-1]
    assert_counts_agree(last.stats, last)
    assert last.instances[1] == InstanceView(device=1, state=GroupState.LOST)
    assert last.stats.replays > 0
    assert last.stats.pauses > 0
    assert max(model.waiting for view in views for model in view.models) > 0
    assert fleet.load().generated_tokens >= 24 * 50  # a replay may do some again


def test_requests_that_cannot_grow_are_seen_to_pause() -> None:
    fleet = toy_fleet(num_pages=12)
    for handle in range(24):
        params = SamplingParams(temperature=0.0, max_tokens=50)
        prompt = [handle + 1] * (handle * 5 % 60 + 1)
        submit(fleet, prompt, handle=handle, params=params)
    views = run_dry(fleet)
    assert max(i.paused for view in views for i in view.instances) == 1
    assert fleet.load().preemptions == fleet.stats().preemptions > 0
    assert_counts_agree(fleet.stats(), views[-1])


def test_pages_of_the_books_are_used_reserved_or_free() -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1)))
    for handle in range(14):
        submit(fleet, [handle + 1] * (handle * 7 + 1), handle=handle, params=SHORT)
    views = []
    for _ in range(25):
        fleet.step()
        views.append(look(fleet))
    for view in views:
        for i in view.instances:
            assert i.capacity_pages == (64 if i.state is GroupState.SERVING else 0)
            assert i.used_pages + i.reserved_pages + i.free_pages == i.capacity_pages
        if not any(model.waiting for model in view.models):
            assert 1 <= view.lower_bound <= view.devices_in_use
    assert any(i.reserved_pages for view in views for i in view.instances)
    moves = [move for view in views for move in view.moves]
    assert {move.mode for move in moves} <= {"kv", "tokens", ""}
    assert MoveStage.COPYING in {move.stage for move in moves}
    assert all(move.source != move.target for move in moves)


def test_a_view_is_kept_for_half_a_second() -> None:
    fleet = toy_fleet()
    viewer = Viewer(
        fleet.conductor,
        devices=[DeviceGroupId(0)],
        profile=Profile.unlimited([], models=[]),
        serving=lambda: SERVING,
    )
    first = viewer.view(now_s=10.0, anew=False)
    assert viewer.view(now_s=10.4, anew=False) is first
    assert viewer.view(now_s=10.5, anew=False) is not first


def test_a_fleet_that_comes_to_rest_is_seen_at_once() -> None:
    fleet = toy_fleet()
    submit(fleet, [1], handle=1, params=KEEPS)
    fleet.step()
    assert view_of(fleet).instances[0].used_pages == 1
    fleet.abort(Abort(handles=(Handle(1),)))
    while fleet.has_work:
        fleet.step()
    assert view_of(fleet).instances[0].used_pages == 0


def test_counts_of_an_instance_outlive_it() -> None:
    double = ModelId("double")
    fleet = toy_fleet(devices=1, factors={TOY: 1, double: 2})
    nine = SamplingParams(temperature=0.0, max_tokens=9)
    submit(fleet, [1], handle=1, params=nine)
    run_dry(fleet)
    before = fleet.load()
    assert before.fleet is not None and before.fleet.stats.parkings == 0
    submit(fleet, [1], handle=2, params=nine, model=double)  # takes the only device
    after = fleet.load()
    assert after.fleet is not None and after.fleet.devices_in_use == 1
    assert fleet.stats().parkings == 1
    assert (before.generated_tokens, after.generated_tokens) == (9, 9)
    assert after.steps == before.steps > 0
    assert after.prefix_query_tokens == 1
    run_dry(fleet)
    assert fleet.load().generated_tokens == 18


def test_a_view_shows_what_was_profiled_and_can_be_sent() -> None:
    a, b = DeviceGroupId(0), DeviceGroupId(1)
    profile = Profile(
        bytes_per_s={(a, b): 2e9, (b, a): 1e9},
        prefill_tokens_per_s={(a, TOY): 300.0, (b, TOY): 400.0},
    )
    fleet = toy_fleet(devices=2, profile=profile)
    submit(fleet, [1], handle=1, params=KEEPS)
    fleet.step()
    view = view_of(fleet)
    assert view.link_bytes_per_s == {(0, 1): 2e9, (1, 0): 1e9}
    assert view.prefill_tokens_per_s == {(0, "toy"): 300.0, (1, "toy"): 400.0}
    assert [instance.state for instance in view.instances] == [
        GroupState.SERVING,
        GroupState.PARKED,
    ]


def test_pauses_sleeps_and_updates_are_seen() -> None:
    fleet = toy_fleet(devices=2)
    assert view_of(fleet).serving == ServingView(updates={"toy": 0})
    fleet.administer(Pause())
    assert view_of(fleet).serving.is_paused
    fleet.administer(Resume())
    fleet.administer(
        UpdateWeights(weights=ToyWeights(fleet, factor=2, scale=1), version="x")
    )
    assert view_of(fleet).serving == ServingView(updates={"toy": 1})
    fleet.administer(NameWeights(version="y"))
    assert view_of(fleet).serving.updates == {"toy": 1}, "these are the same weights"
    fleet.administer(Sleep(level=1))
    assert view_of(fleet).serving.sleep is SleepState.POOLS
    fleet.administer(Wake())
    fleet.administer(Sleep(level=2, keeps="drop"))
    seen = view_of(fleet).serving
    assert seen.sleep is SleepState.DROPPED
    assert seen.freed_bytes > 0


def test_models_that_share_devices_are_seen_apart() -> None:
    one, two = ModelId("one"), ModelId("two")
    fleet = toy_fleet(factors={one: 1, two: 2})
    for handle, model in enumerate((one, two, two)):
        submit(fleet, [1] * 30, handle=handle, params=SHORT, model=model)
    fleet.step()
    view = look(fleet)
    assert view.models == (
        ModelView(name="one", lower_bound=1, waiting=0),
        ModelView(name="two", lower_bound=1, waiting=0),
    )
    assert [instance.model for instance in view.instances] == ["one", "two", ""]
    held = [instance.used_pages for instance in view.instances]
    assert held[1] == 2 * held[0] > 0
    assert (view.lower_bound, view.devices_in_use) == (2, 2)
