"""The default policy on fleets small enough to do in your head."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.bounds import lower_bound
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL, Cached
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.consolidate import Consolidate
from mell_jax.scheduler.policies.exact import PackItem, can_carry_out, close_one
from mell_jax.scheduler.policies.guard import CONSTANT, repack
from mell_jax.scheduler.policies.relocate import Relocation
from tests.scheduler.policies.layout import homes, lay_out


class Fleet:
    """Devices of ten pages whose moves are committed at once."""

    def __init__(
        self,
        *,
        spec: ModelSpec | None = None,
        config: PolicyConfig | None = None,
        devices: int = 30,
    ) -> None:
        self.policy = Consolidate(config or PolicyConfig())
        self.machine = Machine(
            models={ONLY_MODEL: spec or ModelSpec(capacity_pages=10)},
            policy=self.policy,
        )
        self.now_s = 0.0
        for device in range(devices):
            self.tell(events.DeviceAdded(device=DeviceGroupId(device)))

    def tell(self, event: events.Event) -> list[str]:
        """Decisions in short, with those that the commits bring."""
        said, soon = [], [event]
        while soon:
            answer = self.machine.step(soon.pop(0), now_s=self.now_s)
            for decision in answer.decisions:
                if isinstance(decision, plan.Move):
                    soon.append(events.MoveCommitted(move=decision.move))
                    said.append(f"{decision.request}->{decision.target}")
                else:
                    said.append(type(decision).__name__)
        return said

    def arrive(
        self, request: int, pages: int, *, prefix: tuple[Cached, ...] = ()
    ) -> list[str]:
        arrival = events.Arrive(request=RequestId(request), pages=pages, prefix=prefix)
        return self.tell(arrival)

    def finish(self, *requests: int) -> list[str]:
        """What the last of them brings."""
        said: list[str] = []
        for request in requests:
            said = self.tell(events.Finish(request=RequestId(request)))
        return said

    def tick(self, seconds: float = 1.0) -> list[str]:
        self.now_s += seconds
        return self.tell(events.Tick(now_s=self.now_s))

    def wake(self) -> list[str]:
        self.now_s = self.machine.wake_s
        return self.tell(events.Wake())

    def homes(self) -> dict[int, int | None]:
        return {int(r.id): r.device for r in self.machine.ledger.requests.values()}


def test_an_arrival_goes_to_the_fullest_with_room() -> None:
    fleet = Fleet()
    for request, pages in enumerate([8, 5, 2, 5]):
        fleet.arrive(request, pages)
    assert fleet.homes() == {0: 0, 1: 1, 2: 0, 3: 1}


def test_a_cached_prefix_decides_where_there_is_room() -> None:
    fleet = Fleet()
    fleet.arrive(0, 8)
    fleet.arrive(1, 5)
    fleet.arrive(2, 2, prefix=(Cached(device=DeviceGroupId(1), pages=1),))
    assert fleet.homes()[2] == 1


def test_an_arrival_makes_room_by_one_cheap_move() -> None:
    fleet = Fleet()
    for request, pages in enumerate([5, 3, 2, 6, 1]):
        fleet.arrive(request, pages)
    fleet.finish(2)  # d0 [5 3 . .]  d1 [6 1 . . .]
    assert fleet.arrive(5, 4) == ["4->0", "Wait", "Place"]  # once the 1 has gone
    assert fleet.homes() == {0: 0, 1: 0, 3: 1, 4: 0, 5: 1}


def test_no_room_is_made_that_the_next_arrival_would_want_again() -> None:
    fleet = Fleet()
    for request, pages in enumerate([7, 2, 6, 2]):
        fleet.arrive(request, pages)  # d0 [7 2 .]  d1 [6 2 . .]
    assert fleet.arrive(4, 3) == ["Activate", "Place"]  # it would fill both to the brim


def test_the_emptiest_is_drained_as_soon_as_something_leaves() -> None:
    fleet = Fleet()
    for request, pages in enumerate([6, 4, 6, 1]):
        fleet.arrive(request, pages)  # d0 [6 4]  d1 [6 1 . . .]
    assert fleet.finish(1) == []
    assert fleet.finish(2) == ["3->0", "Park"]  # d0 [6 ....]  d1 [1 .........]


def test_a_closing_has_to_be_worth_what_it_moves() -> None:
    """One page of ten would stay free. The squares of what came and left, 149 pages^2
    in a minute, use it up in 60 / 149 = 0.4 s. That is worth 0.4 * 10 / price pages:
    6.7 at 0.6 s, 2.0 at 2 s; 3 would move."""

    def said(price_s: float) -> list[str]:
        fleet = Fleet(config=PolicyConfig(move_price_s=price_s))
        for request, pages in enumerate([6, 4, 6, 3]):
            fleet.arrive(request, pages)
        return fleet.finish(1, 2)  # d0 [6 ....]  d1 [3 .......]

    assert said(0.6) == ["3->0", "Park"]
    assert said(2.0) == []


def test_prefixes_that_were_found_lately_are_part_of_the_price() -> None:
    def said(cached_pages: int, *, wait_s: float = 0.0) -> list[str]:
        fleet = Fleet()
        for request, pages in enumerate([6, 4, 6]):
            fleet.arrive(request, pages)
        found = Cached(device=DeviceGroupId(1), pages=cached_pages)
        fleet.arrive(3, 3, prefix=(found,) if cached_pages else ())
        fleet.now_s += wait_s
        return fleet.finish(1, 2)

    assert said(2) == ["3->0", "Park"]  # 3 + 2 pages, worth 6.7
    assert said(4) == ["0->1", "Park"]  # 6 pages for the other one, and no prefix
    assert said(4, wait_s=30.0) == ["3->0", "Park"]  # 4 * exp(-30 / 60)


def test_a_dear_move_leaves_more_room_for_growth() -> None:
    first, second = (
        Consolidate(PolicyConfig(move_price_s=price)).look_s for price in (1.0, 4.0)
    )
    assert second == 2 * first


def test_a_large_fleet_keeps_less_room_on_every_instance() -> None:
    fleet = Fleet(spec=ModelSpec(capacity_pages=10, growth_pages_per_s=0.1), devices=99)
    policy = fleet.policy
    small_s = policy.look_s
    for request in range(80):
        fleet.arrive(request, 6)
    assert policy.look_s == small_s  # it is looked at in epochs only
    fleet.tick()
    assert policy.look_s < small_s / 3
    assert fleet.machine.ledger.look_s == policy.look_s


def waiting_fleet(**limits: int) -> Fleet:
    fleet = Fleet(config=PolicyConfig(place_wait_s=0.1), **limits)
    fleet.arrive(0, 6)
    fleet.arrive(1, 3)
    return fleet


def test_an_arrival_waits_a_little_before_a_device_is_opened() -> None:
    fleet = waiting_fleet()
    fleet.now_s = 5.0
    assert fleet.arrive(2, 4) == ["Wait"]
    assert fleet.machine.wake_s == 5.1
    assert fleet.wake() == ["Activate", "Place"]
    assert fleet.machine.wake_s == math.inf


def test_an_arrival_that_waits_takes_the_room_of_one_that_leaves() -> None:
    fleet = waiting_fleet()
    fleet.arrive(2, 4)
    fleet.now_s = 0.05
    assert fleet.finish(1) == ["Place"]
    assert fleet.homes() == {0: 0, 2: 0}
    assert fleet.machine.wake_s == math.inf


def test_nobody_waits_for_what_no_one_will_leave_or_can_be_opened() -> None:
    fleet = Fleet(config=PolicyConfig(place_wait_s=0.1))
    assert fleet.arrive(0, 6) == ["Activate", "Place"]
    fleet = waiting_fleet(devices=1)
    fleet.arrive(2, 4)  # it waits for room: no device is left to be opened
    assert fleet.machine.wake_s == math.inf


def test_those_who_wait_let_the_devices_of_other_models_alone() -> None:
    names = [ModelId("a"), ModelId("b")]
    machine = Machine(
        models=dict.fromkeys(names, ModelSpec(capacity_pages=10)),
        policy=Consolidate(PolicyConfig(place_wait_s=0.1)),
    )
    for device in range(4):
        machine.step(events.DeviceAdded(device=DeviceGroupId(device)))
    for number, (model, pages) in enumerate([("a", 9), ("b", 9), ("b", 9)]):
        machine.step(
            events.Arrive(request=RequestId(number), pages=pages, model=ModelId(model))
        )
        if machine.wake_s < math.inf:
            machine.step(events.Wake(), now_s=machine.wake_s)
    for number in (3, 4):  # the second one stands behind the first
        said = machine.step(
            events.Arrive(request=RequestId(number), pages=5, model=names[0]),
            now_s=20.0,
        )
        assert said.decisions == (plan.Wait(request=RequestId(number)),)


def test_no_second_device_is_opened_while_one_with_room_is_loading() -> None:
    spec = ModelSpec(capacity_pages=10, load_s=30.0, growth_pages_per_s=4.0)
    fleet = Fleet(spec=spec)
    assert fleet.arrive(0, 4) == ["Activate", "Place"]
    # nobody grows before it is loaded, so room for a moment's growth is not asked for
    assert fleet.arrive(1, 4) == ["Place"]
    fleet.now_s = 30.0
    fleet.finish(1)
    assert fleet.arrive(2, 4) == ["Activate", "Place"]


def test_the_guard_packs_anew_what_no_price_would_close() -> None:
    """Ten devices hold one page each; 4/3 of the bound, 1, and two are 3."""
    fleet = Fleet(config=PolicyConfig(move_price_s=1e9))
    for request in range(20):
        fleet.arrive(request, 9 if request % 2 else 1)
    fleet.finish(*range(1, 20, 2))
    assert len(fleet.machine.ledger.instances) == 10
    said = fleet.tick()
    assert said.count("Park") == 9
    assert set(fleet.homes().values()) == {0}


def test_a_repacking_first_takes_everything_out() -> None:
    fleet = Fleet(config=PolicyConfig(move_price_s=1e9))
    for request, pages in enumerate([7, 3, 3, 7, 6, 4, 4, 6]):
        fleet.arrive(request, pages)  # d0 [7 3]  d1 [3 7]  d2 [6 4]  d3 [4 6]
    fleet.finish(1, 3, 5, 7)
    draft = Draft(fleet.machine.ledger)
    repack(draft, ONLY_MODEL)
    assert fleet.homes() == {0: 0, 2: 0, 4: 2, 6: 2}
    draft.clear()
    assert fleet.homes() == {0: 0, 2: 1, 4: 2, 6: 3}


def test_nothing_is_found_where_nobody_may_be_moved() -> None:
    fleet = Fleet()
    for request, pages in enumerate([6, 7]):
        fleet.arrive(request, pages)
    draft = Draft(fleet.machine.ledger)
    request = fleet.machine.ledger.requests[RequestId(0)]
    skip = frozenset([DeviceGroupId(0)])
    search = Relocation(draft)
    assert not search.find(request, skip=skip, depth=0, budget_pages=9)
    assert draft.moves() == []


def test_an_overflow_moves_the_smallest_that_is_enough() -> None:
    fleet = Fleet()
    for request, pages in enumerate([4, 3, 3, 5]):
        fleet.arrive(request, pages)  # d0 [4 3 3]  d1 [5 .....]
    said = fleet.tell(events.Grow(request=RequestId(0), pages=5))
    assert said == ["Wait", "1->1", "Place"]


def test_where_one_is_not_enough_for_a_while_the_largest_that_is_enough_now_goes() -> (
    None
):
    spec = ModelSpec(capacity_pages=20, growth_pages_per_s=10.0)
    policy, draft = Consolidate(PolicyConfig()), lay_out([2, 4, 3], [], spec=spec)
    policy.overflow(draft, draft.ledger.instances[DeviceGroupId(0)], 3)
    assert homes(draft) == [0, 1, 0]


def test_room_that_moves_under_way_will_make_is_not_made_twice() -> None:
    fleet = Fleet()
    for request, pages in enumerate([5, 3, 2, 6, 1]):
        fleet.arrive(request, pages)
    fleet.finish(2)
    for request, pages in [(5, 9), (6, 1)]:
        fleet.arrive(request, pages)
    # d0 [5 3 . .]  d1 [6 1 . . .]  d2 [9 1]
    arrival = events.Arrive(request=RequestId(7), pages=4)
    said = fleet.machine.step(arrival, now_s=0.0).decisions
    names = [type(decision).__name__ for decision in said]
    assert names == ["Move", "Wait"]
    said = fleet.machine.step(events.Finish(request=RequestId(6))).decisions
    assert said == ()  # d1 will have 3 + 1 pages: no more is moved, none is opened


def test_what_overflows_goes_to_a_new_instance_before_it_takes_the_last_room() -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=10.0)
    policy, picture = Consolidate(PolicyConfig()), ([4, 5], [5])
    draft = lay_out(*picture, spec=spec, idle=1, look_s=1.0)
    policy.overflow(draft, draft.ledger.instances[DeviceGroupId(0)], 3)
    assert homes(draft) == [0, 2, 1]
    draft = lay_out(*picture, spec=spec, look_s=1.0)
    policy.overflow(draft, draft.ledger.instances[DeviceGroupId(0)], 3)
    assert homes(draft) == [0, 1, 1]


@pytest.mark.parametrize(("price_s", "moved"), [(1e-4, "0->1"), (0.01, "1->1")])
def test_a_dear_overflow_move_buys_more_time(price_s: float, moved: str) -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=1.0)
    fleet = Fleet(spec=spec, config=PolicyConfig(move_price_s=price_s))
    for request, pages in enumerate([2, 4, 1]):
        fleet.arrive(request, pages)
    fleet.arrive(3, 4)  # d0 [2 4 1 ...]  d1 [4 ......]
    fleet.tell(events.Grow(request=RequestId(2), pages=4))
    assert moved in fleet.tell(events.Grow(request=RequestId(2), pages=5))


def test_growth_is_looked_ahead() -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=1.0)
    fleet = Fleet(spec=spec, config=PolicyConfig(look_s=2.0))
    for request, pages in enumerate([7, 4, 1]):
        fleet.arrive(request, pages)  # 7 + 1, and each may grow by 2: 12 is too much
    assert fleet.homes() == {0: 0, 1: 1, 2: 1}


def test_room_for_a_moment_is_used_before_an_instance_is_opened() -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=1.0)
    fleet = Fleet(spec=spec, config=PolicyConfig(look_s=2.0))
    for request, pages in enumerate([5, 4, 4]):
        fleet.arrive(request, pages)  # d0 [5 4 .]: half a second of growth is left
    assert fleet.homes() == {0: 0, 1: 0, 2: 1}


def test_a_full_fleet_gives_its_last_room_before_anybody_waits() -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=20.0)
    fleet = Fleet(spec=spec, devices=1)
    fleet.arrive(0, 6)
    fleet.arrive(1, 4)
    assert fleet.homes() == {0: 0, 1: 0}


def test_an_instance_that_was_dear_to_open_stays_open_for_as_long() -> None:
    spec = ModelSpec(capacity_pages=10, load_s=3.0)
    fleet = Fleet(spec=spec)
    fleet.arrive(0, 6)
    fleet.arrive(1, 5)
    fleet.finish(0)
    assert [fleet.tick() for _ in range(4)] == [[], [], ["Park"], []]
    fleet.finish(1)
    assert [fleet.tick() for _ in range(9)] == [[]] * 9  # the last one stays


def test_the_last_instance_is_parked_where_no_prefix_is_cached() -> None:
    spec = ModelSpec(capacity_pages=10, load_s=3.0, keeps_last=False)
    fleet = Fleet(spec=spec)
    fleet.arrive(0, 4)
    fleet.finish(0)
    assert [fleet.tick() for _ in range(4)] == [[], [], ["Park"], []]


def test_many_that_were_dear_to_open_are_parked_together_but_the_last() -> None:
    fleet = Fleet(spec=ModelSpec(capacity_pages=10, load_s=2.0))
    for request in range(4):
        fleet.arrive(request, 9)
    for request in range(4):
        fleet.finish(request)
    assert [fleet.tick() for _ in range(3)] == [[], ["Park"] * 3, []]


def test_an_instance_that_is_needed_again_soon_is_not_emptied_meanwhile() -> None:
    spec = ModelSpec(capacity_pages=10, load_s=3.0)
    fleet = Fleet(spec=spec)
    for request, pages in enumerate([6, 4, 6, 1]):
        fleet.arrive(request, pages)  # d0 [6 4]  d1 [6 1 . . .]
    fleet.finish(1, 2)  # d0 [6 ....]  d1 [1 .........]
    assert [fleet.tick() for _ in range(2)] == [[], []]
    fleet.arrive(4, 4)  # both are needed again
    assert fleet.tick() == []
    fleet.finish(4)
    assert [fleet.tick() for _ in range(4)] == [[], [], ["3->0", "Park"], []]


def test_consolidation_keeps_within_the_budget_of_a_link() -> None:
    def moved(link_bytes_per_s: float) -> list[str]:
        fleet = Fleet(
            spec=ModelSpec(capacity_pages=10, page_bytes=100.0),
            config=PolicyConfig(
                link_bytes_per_s=link_bytes_per_s, prefill_tokens_per_s=1.0
            ),
        )
        for request, pages in enumerate([6, 4, 6, 1]):
            fleet.arrive(request, pages)
        return fleet.finish(1, 2)

    assert moved(100.0) == ["3->0", "Park"]
    assert moved(99.0) == []


def test_a_model_gives_its_empty_device_to_another() -> None:
    models = {
        ModelId(name): ModelSpec(capacity_pages=10, load_s=60.0) for name in ("a", "b")
    }
    machine = Machine(models=models, policy=Consolidate(PolicyConfig()))
    machine.step(events.DeviceAdded(device=DeviceGroupId(0)))
    machine.step(events.Arrive(request=RequestId(0), pages=1, model=ModelId("a")))
    machine.step(events.Finish(request=RequestId(0)))  # stays open: loading is dear
    said = machine.step(
        events.Arrive(request=RequestId(1), pages=1, model=ModelId("b"))
    )
    names = [type(decision).__name__ for decision in said.decisions]
    assert names == ["Park", "Activate", "Place"]


def test_pairs_that_best_fit_does_not_see_are_packed_exactly() -> None:
    sizes = [(5, 0), (4, 1), (4, 1), (3, 2), (3, 2)]
    items = [PackItem(size=size, home=home) for size, home in sizes]
    found = close_one(items, rooms=[10, 10, 10], closing=0, max_cost=10)
    assert found == [1, 1, 2, 2, 2]  # a 4 goes to the threes, the 5 beside the other
    assert close_one(items, rooms=[10, 10, 10], closing=0, max_cost=8) is None


@given(
    items=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), max_size=6),
    closing=st.integers(0, 2),
)
def test_the_exact_packing_is_as_cheap_as_brute_force(
    items: list[tuple[int, int]], closing: int
) -> None:
    loads = [sum(s for s, home in items if home == at) for at in range(3)]
    if max(loads) > 10:
        return
    fits = [
        sum(s for (s, home), to in zip(items, bins, strict=True) if home != to)
        for bins in itertools.product(range(3), repeat=len(items))
        if closing not in bins
        and all(
            sum(s for (s, _), to in zip(items, bins, strict=True) if to == at) <= 10
            for at in range(3)
        )
    ]
    wishes = [PackItem(size=size, home=home) for size, home in items]
    found = close_one(
        wishes, rooms=[10, 10, 10], closing=closing, max_cost=60, max_nodes=10**6
    )
    if found is None:
        return  # no packing, or none that can be carried out move by move
    cost = sum(i.size for i, to in zip(wishes, found, strict=True) if i.home != to)
    assert cost == min(fits)
    assert can_carry_out(wishes, found, rooms=[10, 10, 10])


def test_a_swap_without_spare_room_cannot_be_carried_out() -> None:
    items = [PackItem(size=6, home=0), PackItem(size=6, home=1)]
    assert not can_carry_out(items, [1, 0], rooms=[10, 10])
    assert can_carry_out(items, [1, 0], rooms=[12, 10])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 10**6)), max_size=80))
def test_at_most_four_thirds_of_the_bound_and_a_constant(
    steps: list[tuple[int, int]],
) -> None:
    fleet = Fleet()
    live: list[int] = []
    for number, (pages, choice) in enumerate(steps):
        if len(live) > 12 and choice % 3:
            fleet.finish(live.pop(choice % len(live)))
        fleet.arrive(number, pages)
        live.append(number)
    for _ in range(12):
        fleet.tick()
    ledger = fleet.machine.ledger
    sizes = np.array([r.pages for r in ledger.requests.values()], np.int64)
    bound = lower_bound(sizes, capacity=10)
    assert 3 * (len(ledger.instances) - CONSTANT) <= 4 * bound
