"""Weights change between plans: pages of older ones are not found, books balance."""

from collections.abc import Callable

import numpy as np
import pytest

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import SCRATCH_PAGE, PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence, StepPlan
from mell_jax.scheduler.prefix_cache import (
    PrefixCache,
    next_key,
    page_keys,
    root_key,
)
from tests.scheduler.fake_device import FakeDevice, check_books
from tests.scheduler.test_batching_simulation import Simulation

SIZE = 8
ONE, TWO, THREE = Serial(1), Serial(2), Serial(3)
PROMPT = np.arange(30, dtype=np.int32)


class Dated(FakeDevice):
    """Knows of each token in its pages which generation of weights wrote it."""

    def __init__(self, *, num_pages: int, spec: CacheSpec, num_slots: int) -> None:
        super().__init__(num_pages=num_pages, spec=spec, num_slots=num_slots)
        self.generation = 0
        self.found = 0  # pages that were shared
        self._unseen: dict[Serial, tuple[int, int]] = {}  # admitted, not in a step yet
        self.made = np.full((num_pages, spec.page_tokens), -1)

    def run(self, plan: StepPlan) -> np.ndarray:
        for entry in plan.admitted:
            self._unseen[entry.serial] = (entry.cached, self.generation)
        for row, serial in enumerate(map(Serial, plan.serials.tolist())):
            count, generation = self._unseen.pop(serial, (0, 0))
            cached = plan.page_table[:, row, : count // self.spec.page_tokens]
            cached = cached[cached != SCRATCH_PAGE]
            assert (self.made[cached] == generation).all(), "an old page was found"
            self.found += cached.size
        along, offset = np.divmod(plan.positions, self.spec.page_tokens)
        for table in plan.page_table:
            self.made[table[plan.owners, along], offset] = self.generation
        return super().run(plan)


class Turning(Simulation):
    """Weights change now and then, and sometimes everything restarts."""

    def __init__(self, seed: int, *, windows: bool, guided: bool = False) -> None:
        super().__init__(seed, windows=windows, guided=guided)
        self.dated = self.device = Dated(
            num_pages=self.num_pages,
            spec=self.shape.spec,
            num_slots=self.shape.max_rows,
        )
        self.turns = self.restarted = 0

    def _launch(self, *, must: bool) -> None:
        if self.rng.random() < 0.1 and self.turns < 6:  # or some would never end
            self.turns += 1
            self.dated.generation += 1
            self.batcher.turn(generation=self.dated.generation)
            check_books(self.batcher)
            if self.rng.random() < 0.4:
                self.restarted += self.batcher.restart_all()
                check_books(self.batcher)
        super()._launch(must=must)


def simulate(seeds: range, *, windows: bool, guided: bool = False) -> None:
    found = restarted = turns = 0
    for seed in seeds:
        simulation = Turning(seed, windows=windows, guided=guided)
        try:
            simulation.run()
        except BaseException as error:
            error.add_note(f"seed {seed}: {simulation.shape} {simulation.jobs}")
            raise
        found += simulation.dated.found
        restarted += simulation.restarted
        turns += simulation.turns
    assert min(10 * found, restarted, turns) > len(seeds), "they test too little"


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_sequences_end_with_their_tokens_and_no_old_page(
    windows: bool, guided: bool
) -> None:
    simulate(range(150), windows=windows, guided=guided)


@pytest.mark.slow
@pytest.mark.parametrize("windows", [False, True])
def test_no_old_page_is_found_in_many_schedules(windows: bool) -> None:
    simulate(range(1000, 4000), windows=windows)


def publish_all(batcher: Batcher) -> None:
    """Sequences with pages count as those without."""
    turn = batcher.sequences.turn
    batcher.sequences.turn = lambda *, generation, mixed: turn(  # type: ignore[method-assign]
        generation=generation, mixed=set()
    )


def turn_nothing(batcher: Batcher) -> None:
    """Keys go on without a generation."""
    batcher.sequences.turn = lambda **_: None  # type: ignore[method-assign]


@pytest.mark.parametrize("spoil", [publish_all, turn_nothing])
def test_the_simulation_notices_a_planted_fault(
    spoil: Callable[[Batcher], None],
) -> None:
    noticed = 0
    for seed in range(60):
        simulation = Turning(seed, windows=False)
        spoil(simulation.batcher)
        try:
            simulation.run()
        except (AssertionError, IndexError):
            noticed += 1
    assert noticed > 3


def sequence(serial: Serial) -> Sequence:
    return Sequence(serial=serial, tokens=PROMPT, prompt=30, limit=60)


@pytest.fixture
def batcher() -> Batcher:
    """31 pages, three rows, 16 tokens a step."""
    return Batcher(
        PrefixCache(PagePool(32)),
        limits=BatchLimits(max_rows=3, token_budget=16, max_tokens=64),
        spec=CacheSpec(page_tokens=SIZE),
    )


def step(batcher: Batcher) -> StepPlan | None:
    plan = batcher.plan()
    if plan is not None:
        batcher.commit(plan, np.full(len(plan.slots), 7, np.int32))
    check_books(batcher)
    return plan


def test_a_row_half_prefilled_promises_nothing_any_more(batcher: Batcher) -> None:
    batcher.add(sequence(ONE))
    step(batcher)
    batcher.add(sequence(TWO))
    plan = step(batcher)
    assert plan is not None
    assert not plan.admitted  # it waits for the pages of the first
    batcher.turn(generation=1)
    plan = step(batcher)
    assert plan is not None
    assert [entry.cached for entry in plan.admitted] == [0]
    assert batcher.sequences.sequence(ONE).is_mixed
    assert not batcher.sequences.sequence(TWO).is_mixed


def test_a_restarted_row_is_none_of_several_weights(batcher: Batcher) -> None:
    batcher.add(sequence(ONE))
    for _ in range(4):
        step(batcher)
    batcher.turn(generation=1)
    assert batcher.restart_all() == 1
    assert not batcher.sequences.sequence(ONE).is_mixed
    plan = step(batcher)
    assert plan is not None
    (entry,) = plan.admitted
    assert entry.cached == 0
    assert len(entry.tokens) == 33
    for _ in range(3):
        step(batcher)
    batcher.add(sequence(TWO))
    plan = step(batcher)
    assert plan is not None
    assert [entry.cached for entry in plan.admitted] == [24]


def test_rows_restart_in_the_order_in_which_they_came(batcher: Batcher) -> None:
    for serial in (ONE, TWO, THREE):
        batcher.add(sequence(serial))
        for _ in range(3):
            step(batcher)
    batcher.turn(generation=1)
    batcher.restart_all()
    admitted = []
    while len(admitted) < 3:
        plan = step(batcher)
        assert plan is not None
        admitted += [entry.serial for entry in plan.admitted]
    assert admitted == [ONE, TWO, THREE]


def test_a_reservation_counts_as_if_it_had_pages(batcher: Batcher) -> None:
    batcher.reservations.reserve(sequence(ONE), pages=4)
    batcher.turn(generation=1)
    assert batcher.sequences.sequence(ONE).is_mixed
    batcher.reservations.begin(
        ONE, computed=29, since=30, tail=np.zeros(0, np.int32), pages=6
    )
    for _ in range(3):
        step(batcher)
    batcher.add(sequence(TWO))
    plan = step(batcher)
    assert plan is not None
    assert [entry.cached for entry in plan.admitted] == [0]


def test_a_generation_is_part_of_every_key() -> None:
    keys = {
        key
        for generation in range(50)
        for key in page_keys(
            PROMPT, page_tokens=SIZE, salt=b"salt", generation=generation
        )
    }
    assert len(keys) == 50 * 3
    assert root_key(b"", generation=0) == root_key(b"")
    assert next_key(root_key(b"", generation=1), PROMPT[:8]) not in keys


def test_all_pages_are_forgotten_at_once(batcher: Batcher) -> None:
    batcher.add(sequence(ONE))
    for _ in range(3):
        step(batcher)
    assert batcher.cache.forget_all() == 3
    assert batcher.cache.forget_all() == 0
    check_books(batcher)
    batcher.add(sequence(TWO))
    plan = step(batcher)
    assert plan is not None
    assert [entry.cached for entry in plan.admitted] == [0]
    batcher.cancel(ONE)
    batcher.cancel(TWO)
    assert batcher.cache.counts.used == 0
