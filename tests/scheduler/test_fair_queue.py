"""Whose turn it is: small queues by hand, and what holds for all of them."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.fair_queue import NOBODY, FairQueue, Tenant

A, B, C = (Tenant(name=name) for name in "abc")


def queue_of(
    *items: tuple[str, Tenant, int], quantum: float = 1, patience: float = 100
) -> FairQueue[str]:
    queue = FairQueue[str](quantum=quantum, patience=patience)
    for item, tenant, cost in items:
        queue.push(item, tenant=tenant, cost=cost)
    return queue


def serve(queue: FairQueue[str], *, room: float = float("inf")) -> list[str]:
    """One pass: takes what costs at most the room that is left."""
    taken = []
    for tenant in queue.turns():
        item = queue.head(tenant)
        cost = COSTS.get(item, 1)
        if cost <= room:
            room -= cost
            queue.take(item)
            taken.append(item)
        else:
            queue.refuse(tenant)
    return taken


COSTS = {"big": 10}


def test_tenants_take_turns() -> None:
    queue = queue_of(*((f"a{n}", A, 1) for n in range(4)), ("b0", B, 1), ("b1", B, 1))
    assert serve(queue) == ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert not queue


def test_turns_are_by_cost_and_not_by_number() -> None:
    queue = queue_of(("a0", A, 3), ("a1", A, 3), *((f"b{n}", B, 1) for n in range(6)))
    assert serve(queue) == ["a0", "b0", "b1", "b2", "a1", "b3", "b4", "b5"]


def test_turns_are_by_weight() -> None:
    dear = Tenant(name="dear", weight=2)
    queue = queue_of(
        *((f"d{n}", dear, 1) for n in range(4)), ("a0", A, 1), ("a1", A, 1)
    )
    assert serve(queue) == ["d0", "d1", "a0", "d2", "d3", "a1"]


def test_a_tenant_that_had_all_to_itself_owes_nobody_anything() -> None:
    queue = queue_of(*((f"a{n}", A, 1) for n in range(100)))
    for number in range(90):
        queue.take(f"a{number}")
    for number in range(3):
        queue.push(f"b{number}", tenant=B, cost=1)
    assert serve(queue)[:6] == ["a90", "b0", "a91", "b1", "a92", "b2"]


def test_a_heavy_tenant_that_was_alone_has_its_turn_by_weight() -> None:
    dear = Tenant(name="dear", weight=2)
    queue = queue_of(*((f"d{n}", dear, 1) for n in range(9)))
    queue.take("d0")
    for number in range(3):
        queue.push(f"b{number}", tenant=B, cost=1)
    assert serve(queue)[:6] == ["d1", "d2", "b0", "d3", "d4", "b1"]


def test_debts_are_paid_by_as_many_rounds_as_it_takes() -> None:
    """Of 7 and 5 that they owe: B has 1 after six rounds, A two rounds later."""
    queue = queue_of(("a0", A, 1), ("b0", B, 1), ("a1", A, 1), ("b1", B, 1))
    queue.charge("a", cost=8)
    queue.charge("b", cost=6)
    assert serve(queue) == ["b0", "b1", "a0", "a1"]


def test_only_what_is_taken_in_the_same_pass_has_passed_a_head() -> None:
    queue = queue_of(("big", A, 10), *((f"b{n}", B, 1) for n in range(9)), patience=3)
    assert serve(queue, room=2) == ["b0", "b1"]
    queue.take("b2")
    queue.take("b3")
    assert not queue.is_overtaken("a")
    queue.take("b4", passing=["a", "b", "nobody"])
    assert queue.is_overtaken("a") and not queue.is_overtaken("b")


def test_a_pass_that_was_left_early_is_forgotten_by_the_next() -> None:
    queue = queue_of(("big", A, 10), ("b0", B, 9), patience=3)
    turns = queue.turns()
    assert next(turns) == "a"
    queue.refuse("a")
    assert next(turns) == "b"
    assert next(queue.turns()) == "a"
    queue.take("b0")  # nobody was refused in this pass
    assert not queue.is_overtaken("a")


def test_a_head_that_is_discarded_in_a_pass_is_not_waited_for() -> None:
    queue = queue_of(
        *(("big", A, 10), ("b0", B, 1), ("b1", B, 1), ("c0", C, 1), ("c1", C, 1))
    )
    turns = queue.turns()
    assert next(turns) == "a"
    queue.refuse("a")
    assert next(turns) == "b"
    queue.discard("big")
    queue.take("b0")
    assert next(turns) == "c"


def test_what_is_put_back_comes_before_others_of_its_tenant_and_is_not_charged() -> (
    None
):
    queue = queue_of(("a0", A, 5), ("a1", A, 5), ("b0", B, 5), ("b1", B, 5))
    queue.take("a0")
    queue.put_back("a0", tenant=A)
    assert serve(queue) == ["b0", "a0", "b1", "a1"]


def test_who_was_overtaken_enough_is_next_whoever_has_the_turn() -> None:
    queue = queue_of(("big", A, 10), *((f"b{n}", B, 1) for n in range(9)), patience=3)
    assert serve(queue, room=3) == ["b0", "b1", "b2"]
    queue.charge("a", cost=5)  # it has grown meanwhile: the turn is B's
    assert queue.tenants == ["b", "a"]
    assert next(queue.turns()) == "a"


def test_growth_is_charged_where_somebody_else_waits() -> None:
    queue = queue_of(("a0", A, 1), ("a1", A, 1), *((f"b{n}", B, 1) for n in range(4)))
    queue.charge("a", cost=4)
    queue.charge("c", cost=4)  # waits for nothing
    assert serve(queue) == ["b0", "b1", "b2", "b3", "a0", "a1"]


def test_a_head_that_does_not_fit_lets_others_pass_for_a_while() -> None:
    queue = queue_of(("big", A, 10), *((f"b{n}", B, 1) for n in range(9)), patience=4)
    assert serve(queue, room=3) == ["b0", "b1", "b2"]
    assert serve(queue, room=3) == ["b3"]  # four have passed: no more
    assert serve(queue, room=9) == []
    assert serve(queue, room=11) == ["big", "b4"]
    assert serve(queue, room=2) == ["b5", "b6"]


def test_the_heads_are_the_first_of_each_tenant() -> None:
    queue = queue_of(("a0", A, 1), ("b0", B, 1), ("a1", A, 1))
    assert list(queue.heads()) == ["a0", "b0"]


def test_the_latest_item_says_what_a_tenant_weighs() -> None:
    queue = queue_of(*((f"a{n}", A, 1) for n in range(4)), ("b0", B, 1), ("b1", B, 1))
    queue.push("a4", tenant=Tenant(name="a", weight=3), cost=1)
    assert serve(queue) == ["a0", "b0", "a1", "a2", "a3", "b1", "a4"]


def test_nobody_overtakes_in_a_lane() -> None:
    queue = queue_of(("big", A, 10), ("a1", A, 1))
    assert serve(queue, room=5) == []
    assert serve(queue, room=11) == ["big", "a1"]


def test_what_is_discarded_blocks_nobody() -> None:
    queue = queue_of(("big", A, 10), ("a1", A, 1), ("b0", B, 1))
    assert queue.discard("big") and not queue.discard("big")
    assert "big" not in queue and len(queue) == 2
    assert sorted(serve(queue, room=2)) == ["a1", "b0"]
    assert queue.tenants == [] and list(queue.items("a")) == []


def test_a_pass_ends_after_many_heads_that_do_not_fit() -> None:
    names = [Tenant(name=f"t{n}") for n in range(100)]
    queue = queue_of(*((name.name, name, 1) for name in names))
    assert serve(queue, room=0) == []
    looked = 0
    for tenant in queue.turns():
        queue.refuse(tenant)
        looked += 1
    assert looked == 16


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_weights_are_positive_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="weight must be above 0 and finite, got"):
        Tenant(weight=bad)


@pytest.mark.parametrize(("quantum", "patience"), [(0, 1), (1, 0), (float("nan"), 1)])
def test_quantum_and_patience_are_positive(quantum: float, patience: float) -> None:
    with pytest.raises(ValueError, match="quantum and patience must be above 0"):
        FairQueue[str](quantum=quantum, patience=patience)


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 9)),
        st.tuples(st.just("serve"), st.integers(0, 20)),
        st.tuples(st.just("back"), st.just(0)),
        st.tuples(st.just("discard"), st.integers(0, 50)),
    ),
    max_size=60,
)


@given(OPS)
def test_with_one_tenant_the_order_is_that_of_a_plain_queue(
    ops: list[tuple[str, int]],
) -> None:
    queue = FairQueue[int](quantum=1, patience=3)
    plain: deque[int] = deque()
    costs: dict[int, int] = {}
    gone: list[int] = []
    for op, number in ops:
        if op == "push":
            item = len(costs)
            costs[item] = number
            queue.push(item, tenant=NOBODY, cost=number)
            plain.append(item)
        elif op == "back" and gone:
            item = gone.pop()
            queue.put_back(item, tenant=NOBODY)
            plain.appendleft(item)
        elif op == "discard":
            assert queue.discard(number) == (number in plain)
            if number in plain:
                plain.remove(number)
        elif op == "serve":
            room, want = number, []
            while plain and costs[plain[0]] <= room:
                room -= costs[plain[0]]
                want.append(plain.popleft())
            room, got = number, []
            for tenant in queue.turns():
                item = queue.head(tenant)
                if costs[item] > room:
                    queue.refuse(tenant)
                    continue
                room -= costs[item]
                queue.take(item)
                got.append(item)
            assert got == want
            gone += got
        assert list(queue.items("")) == list(plain)
        assert len(queue) == len(plain)


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=4),
    costs=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    quantum=st.sampled_from([1.0, 5.0, 20.0]),
)
@settings(deadline=None)
def test_who_waits_all_the_time_is_served_in_proportion_to_weight(
    weights: list[float], costs: list[int], quantum: float
) -> None:
    tenants = [Tenant(name=f"{n}", weight=w) for n, w in enumerate(weights)]
    queue = FairQueue[tuple[str, int]](quantum=quantum, patience=1)
    for tenant in tenants:
        for number in range(300):
            cost = costs[(number + len(tenant.name)) % len(costs)]
            queue.push((tenant.name, number), tenant=tenant, cost=cost)
    served: Counter[str] = Counter()
    order: dict[str, list[int]] = {tenant.name: [] for tenant in tenants}
    for count, name in enumerate(queue.turns()):
        item = queue.head(name)
        order[name].append(item[1])
        queue.take(item)
        served[name] += costs[(item[1] + 1) % len(costs)]
        normal = [served[tenant.name] / tenant.weight for tenant in tenants]
        most = 2 * (quantum + max(costs) / min(weights))
        assert max(normal) - min(normal) <= most, (normal, most)
        if count == 250:
            break
    assert all(numbers == sorted(numbers) for numbers in order.values())


@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 10)), min_size=1, max_size=60
    ),
    patience=st.integers(1, 30),
)
def test_nobody_is_overtaken_by_more_than_the_patience(
    sizes: list[tuple[int, int]], patience: int
) -> None:
    """Room of 10 comes back bit by bit; who is passed over is counted by hand."""
    queue = FairQueue[int](quantum=1, patience=patience)
    tenants = [Tenant(name=f"{n}") for n in range(4)]
    cost = dict(enumerate(size for _, size in sizes))
    for item, (tenant, size) in enumerate(sizes):
        queue.push(item, tenant=tenants[tenant], cost=size)
    overtaken: Counter[int] = Counter()
    running: deque[int] = deque()
    passes = 0
    while queue:
        passes += 1
        assert passes <= 3 * len(sizes), "starved"
        refused: list[int] = []
        for name in queue.turns():
            item = queue.head(name)
            if sum(running) + cost[item] <= 10:
                running.append(cost[item])
                queue.take(item)
                for other in refused:
                    overtaken[other] += cost[item]
            else:
                queue.refuse(name)
                refused.append(item)
        if running:
            running.popleft()
    assert all(passed < patience + 10 for passed in overtaken.values())
