"""Random schedules on a fake device: exact tokens, balanced books."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec, PageGroup
from mell_jax.scheduler.fair_queue import Tenant
from mell_jax.scheduler.grants import PageGrowth
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import OutOfPagesError, PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence, StepPlan
from mell_jax.scheduler.prefix_cache import PrefixCache, group_key, page_keys
from tests.scheduler.fake_device import (
    FakeDevice,
    check_books,
    check_plan,
    continuation,
)

SIZE = 4
TENANTS = (Tenant(), Tenant(name="a"), Tenant(name="b", weight=2.5))


@dataclass
class Job:
    """One sequence: what it asks for, and what is to happen to it."""

    prompt: list[int]
    limit: int
    salt: bytes
    reads_cache: bool
    arrives: int  # step
    cancelled: int | None  # step
    stops_after: int | None  # tokens; the device goes on, as it does at an EOS
    tenant: Tenant
    fails_after: int | None  # tokens; then nothing to trust is sampled
    is_guided: bool = False  # waits for its own tokens, and some are given to it
    opens: int | None = None  # step when it may sample the next token
    got: list[int] = field(default_factory=list)
    is_over: bool = False

    @property
    def wanted(self) -> int:
        most = self.limit - len(self.prompt)
        return min(most, *(n for n in (self.stops_after, self.fails_after) if n), most)


@dataclass(frozen=True)
class Shape:
    """Sizes of a schedule."""

    max_rows: int
    budget: int
    max_tokens: int
    num_pages: int
    shares: bool
    tenants: int
    is_ahead: bool  # plans a step before the results of the last one are known
    spec: CacheSpec


def random_spec(rng: np.random.Generator, *, windows: bool) -> CacheSpec:
    """One group that keeps everything; or several, some with a window."""
    if not windows:
        return CacheSpec(page_tokens=SIZE)
    chunk = int(rng.integers(1, 12))
    groups = []
    for _ in range(int(rng.integers(1, 4))):
        window = int(rng.integers(1, 14)) if rng.random() < 0.7 else None
        ring = None if window is None else -(-(window - 1 + chunk) // SIZE) + 1
        groups.append(PageGroup(window=window, ring=ring))
    return CacheSpec(page_tokens=SIZE, groups=tuple(groups), chunk_tokens=chunk)


def random_shape(rng: np.random.Generator, *, windows: bool) -> Shape:
    max_tokens = int(rng.integers(6, 33))
    max_rows = int(rng.integers(2, 7))
    spec = random_spec(rng, windows=windows)
    least = spec.held_by(max_tokens)
    return Shape(
        spec=spec,
        max_rows=max_rows,
        budget=max_rows + int(rng.integers(0, 24)),
        max_tokens=max_tokens,
        num_pages=1 + least + int(rng.integers(0, least)),
        shares=bool(rng.random() < 0.8),
        is_ahead=bool(rng.random() < 0.9),
        tenants=1 + int(rng.integers(0, len(TENANTS))),
    )


def random_job(rng: np.random.Generator, shape: Shape, *, common: np.ndarray) -> Job:
    length = int(rng.integers(1, rng.integers(2, shape.max_tokens + 1)))
    shared = int(rng.integers(0, length + 1)) if rng.random() < 0.6 else 0
    prompt = rng.integers(0, 100, length)
    prompt[:shared] = common[:shared]
    limit = int(rng.integers(length + 1, shape.max_tokens + 1))
    arrives = int(rng.integers(0, 12))
    fails = int(rng.integers(1, 6)) if rng.random() < 0.05 else None
    return Job(
        prompt=prompt.tolist(),
        limit=limit,
        # A failing sequence has a salt of its own: nobody else publishes its pages.
        salt=rng.bytes(8) if fails else [b"", b"tenant"][int(rng.random() < 0.2)],
        reads_cache=bool(rng.random() < 0.9),
        tenant=TENANTS[int(rng.integers(0, shape.tenants))],
        arrives=arrives,
        cancelled=arrives + int(rng.integers(0, 15)) if rng.random() < 0.2 else None,
        stops_after=int(rng.integers(1, 10)) if rng.random() < 0.3 else None,
        fails_after=fails,
    )


class Simulation:
    """Drives a batcher as the engine does and checks everything after every event."""

    def __init__(
        self,
        seed: int,
        *,
        spoil: Callable[[Batcher], None] = lambda batcher: None,
        windows: bool = False,
        guided: bool = False,
    ) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.shape = shape = random_shape(rng, windows=windows)
        common = rng.integers(0, 100, shape.max_tokens)
        count = int(rng.integers(1, 11))
        self.jobs = [random_job(rng, shape, common=common) for _ in range(count)]
        num_pages, growth = shape.num_pages, PageGrowth.PREEMPT
        if guided:  # tokens are given to rows that have been granted their pages
            growth = PageGrowth.WAIT
            num_pages = 1 + sum(shape.spec.held_by(job.limit) for job in self.jobs)
            num_pages = max(num_pages, shape.num_pages)
            for job in self.jobs:
                job.is_guided = bool(rng.random() < 0.6)
        self.batcher = Batcher(
            PrefixCache(PagePool(num_pages)),
            limits=BatchLimits(
                max_rows=shape.max_rows,
                token_budget=shape.budget,
                max_tokens=shape.max_tokens,
                mixed_tokens=(4, 300) if seed % 2 else (),
            ),
            spec=shape.spec,
            shares_prefixes=shape.shares,
            growth=growth,
        )
        self.num_pages = num_pages
        spoil(self.batcher)
        self.device = FakeDevice(
            num_pages=num_pages, spec=shape.spec, num_slots=shape.max_rows
        )
        self.in_flight: tuple[StepPlan, np.ndarray] | None = None
        self.preemptions = self.step = 0
        self.computed = self.forced = 0

    def run(self) -> None:
        work = sum(job.limit for job in self.jobs)
        step = 0
        while not all(job.is_over for job in self.jobs) or self.in_flight:
            self._arrivals_and_cancels(step)
            self._guide(step)
            landing, self.in_flight = self.in_flight, None
            if not self.shape.is_ahead and landing is not None:
                self._land(*landing)
                landing = None
            self._launch(must=landing is None)
            if landing is not None:
                self._land(*landing)
            step += 1
            self.step = step
            assert step < 40 + 20 * work, "starved"
        self._check_end()

    def _arrivals_and_cancels(self, step: int) -> None:
        for serial, job in enumerate(self.jobs):
            if job.arrives == step:
                self.batcher.add(
                    Sequence(
                        serial=Serial(serial),
                        tokens=np.array(job.prompt, np.int32),
                        prompt=len(job.prompt),
                        limit=job.limit,
                        salt=job.salt,
                        reads_cache=job.reads_cache,
                        tenant=job.tenant,
                    )
                )
                if job.is_guided:
                    self._shut(serial, until=step + int(self.rng.integers(0, 4)))
                check_books(self.batcher)
            if job.cancelled == step and not job.is_over:
                self._end(serial)
                check_books(self.batcher)

    def _shut(self, serial: int, *, until: int) -> None:
        """Has a sequence wait with its next token until a step."""
        job = self.jobs[serial]
        job.opens = until
        known = len(job.prompt) + len(job.got)
        self.batcher.grants.gate(Serial(serial), positions=known - 1)

    def _guide(self, step: int) -> None:
        """Gives tokens to sequences whose time has come, and lets them go on."""
        for serial, job in enumerate(self.jobs):
            if job.opens is None or job.opens > step or job.is_over:
                continue
            job.opens = None
            most = job.wanted - len(job.got) - 1
            count = min(int(self.rng.integers(0, 7)), most)
            if count > 0 and job.fails_after is None:
                every = continuation(
                    job.prompt,
                    count=len(job.got) + count,
                    windows=self.device.windows,
                )
                forced = every[len(job.got) :]
                self.batcher.append(Serial(serial), np.array(forced, np.int32))
                job.got += forced
                self.forced += count
            known = len(job.prompt) + len(job.got)
            self.batcher.grants.gate(Serial(serial), positions=known)
            check_books(self.batcher)

    @property
    def _is_anyone_free(self) -> bool:
        """Whether nobody waits for his turn, behind whom others may wait for a row."""
        return all(job.opens is None or job.is_over for job in self.jobs)

    def _launch(self, *, must: bool) -> None:
        plan = self.batcher.plan()
        check_books(self.batcher)
        if plan is None:
            is_idle = self.batcher.is_empty or not self._is_anyone_free
            assert not must or is_idle, "idle with work to do"
            return
        check_plan(
            self.batcher, plan, max_rows=self.shape.max_rows, budget=self.shape.budget
        )
        self.preemptions += len(plan.preempted)
        self.computed += plan.num_tokens
        tokens = self.device.run(plan)
        for row in np.flatnonzero(plan.samples):
            job = self.jobs[plan.serials[row]]
            generated = plan.kv_lens[row] - len(job.prompt)
            if job.fails_after is not None and generated >= job.fails_after:
                tokens[row] = -1
        self.in_flight = plan, tokens

    def _land(self, plan: StepPlan, tokens: np.ndarray) -> None:
        live = self.batcher.commit(plan, tokens)
        check_books(self.batcher)
        assert not (live & ~plan.samples).any()
        for row in np.flatnonzero(plan.samples):
            job = self.jobs[plan.serials[row]]
            assert live[row] == (not job.is_over and tokens[row] >= 0)
            if live[row]:
                job.got.append(int(tokens[row]))
                if job.is_guided and not job.is_over:
                    delay = int(self.rng.integers(0, 3))
                    self._shut(int(plan.serials[row]), until=self.step + delay)
            if not job.is_over and (tokens[row] < 0 or len(job.got) == job.wanted):
                self._end(int(plan.serials[row]), trusted=bool(tokens[row] >= 0))
                check_books(self.batcher)

    def _end(self, serial: int, *, trusted: bool = True) -> None:
        job = self.jobs[serial]
        job.is_over = True
        self.batcher.cancel(Serial(serial), trusted=trusted)
        if not trusted:
            tokens = np.array(job.prompt + job.got, np.int32)
            keys = page_keys(tokens, page_tokens=SIZE, salt=job.salt)
            assert not any(
                self.batcher.cache.knows(group_key(key, group))
                for key in keys
                for group in range(self.shape.spec.num_groups)
            )

    def _check_end(self) -> None:
        for job in self.jobs:
            count = job.wanted if job.cancelled is None else len(job.got)
            assert len(job.got) <= job.wanted
            assert job.got == continuation(
                job.prompt, count=count, windows=self.device.windows
            )
        assert self.batcher.is_empty
        assert self.batcher.num_running == self.batcher.num_waiting == 0
        assert not self.batcher.sequences._promised
        assert not self.batcher.sequences._keys
        assert self.batcher.plan() is None
        assert self.batcher.cache.counts.used == 0
        self.batcher.cache.clear()
        counts = self.batcher.cache.counts
        assert counts.free == counts.total == self.num_pages - 1


def simulate(seeds: range, *, windows: bool = False) -> None:
    preemptions = 0
    for seed in seeds:
        simulation = Simulation(seed, windows=windows)
        try:
            simulation.run()
        except BaseException as error:
            error.add_note(f"seed {seed}: {simulation.shape} {simulation.jobs}")
            raise
        preemptions += simulation.preemptions
    assert preemptions > len(seeds) // 5, "these schedules test too little"


@pytest.mark.parametrize("windows", [False, True])
def test_every_sequence_ends_with_exactly_its_tokens(windows: bool) -> None:
    simulate(range(400), windows=windows)


@pytest.mark.parametrize("windows", [False, True])
def test_a_guided_sequence_waits_for_its_tokens_and_takes_what_it_is_given(
    windows: bool,
) -> None:
    forced = 0
    for seed in range(200):
        simulation = Simulation(seed, windows=windows, guided=True)
        try:
            simulation.run()
        except BaseException as error:
            error.add_note(f"seed {seed}: {simulation.shape} {simulation.jobs}")
            raise
        forced += simulation.forced
    assert forced > 200


@pytest.mark.slow
@pytest.mark.parametrize("windows", [False, True])
def test_every_sequence_ends_with_its_tokens_in_many_schedules(windows: bool) -> None:
    simulate(range(500, 4000), windows=windows)


def share_early(batcher: Batcher) -> None:
    """Lets others share the pages of a prompt before they are computed."""
    sequences, promise = batcher.sequences, batcher.sequences.promise

    def publish(serial: Serial, *, first_page: int) -> None:
        promise(serial, first_page=first_page)
        if sequences.shares_prefixes:
            slot = sequences.slot_of(serial)
            sequences.publish(slot, until=int(sequences.rows.known[slot]) // SIZE)

    sequences.promise = publish


def forget_a_token(batcher: Batcher) -> None:
    """Drops the token that was on its way when its sequence was preempted."""
    commit = batcher._commit_preempted
    batcher._commit_preempted = lambda serial, token: commit(serial, token) and False


def leak_a_page(batcher: Batcher) -> None:
    """Keeps a page of every sequence that leaves its row."""
    sequences, leave = batcher.sequences, batcher.sequences.leave

    def leak(serial: Serial) -> None:
        sequences.pages.end[0, sequences.slot_of(serial)] -= 1
        leave(serial)

    sequences.leave = leak


@pytest.mark.parametrize("spoil", [share_early, forget_a_token, leak_a_page])
def test_the_simulation_notices_a_planted_fault(
    spoil: Callable[[Batcher], None],
) -> None:
    with pytest.raises((AssertionError, OutOfPagesError)):
        for seed in range(100):
            Simulation(seed, spoil=spoil).run()
