"""Moves that are long under way, under every policy, by seeds.

Growth is counted at both ends, nothing is over capacity, and nobody who was promised a
place is forgotten.
"""

import numpy as np
import pytest

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import NEVER_MOVE, POLICIES
from tests.scheduler.placement.world import World

SPEC = ModelSpec(capacity_pages=16, growth_pages_per_s=1.0)
SEEDS = range(30)
DEVICES = 5
STEPS = 250


class Traffic:
    """Random requests on few devices; a move takes about eight events."""

    def __init__(self, policy: str, *, seed: int) -> None:
        config = PolicyConfig(place_wait_s=0.1)
        self.machine = Machine(
            models={ONLY_MODEL: SPEC}, policy=POLICIES[policy](config)
        )
        self.world = World({ONLY_MODEL: SPEC})
        self.rng = np.random.default_rng(seed)
        self.now_s = 0.0
        self.asked = 0
        self.grown_in_flight = 0
        for device in range(DEVICES):
            self.tell(events.DeviceAdded(device=DeviceGroupId(device)))

    def tell(self, event: events.Event) -> None:
        answer = self.machine.step(event, now_s=self.now_s)
        self.world.follow(event, answer)
        self.world.check()
        self.machine.ledger.check()

    def run(self) -> None:
        for step in range(STEPS):
            self.now_s += 0.05
            if self.now_s >= self.machine.wake_s:
                self.tell(events.Wake())
            if step % 20 == 19:
                self.tell(events.Tick(now_s=self.now_s))
            self._step()

    def _step(self) -> None:
        moves, homes = list(self.world.moves), self.world.home
        chance = self.rng.random()
        if moves and chance < 0.12:
            kind = events.MoveCommitted if chance < 0.1 else events.MoveAborted
            self.tell(kind(move=MoveId(int(self.rng.choice(moves)))))
        elif chance < 0.3:
            pages = int(self.rng.integers(1, 10))
            self.tell(events.Arrive(request=RequestId(self.asked), pages=pages))
            self.asked += 1
        elif chance < 0.42 and homes:
            request = int(self.rng.choice(list(homes)))
            self.tell(events.Finish(request=RequestId(request)))
        else:
            self._grow()

    def _grow(self) -> None:
        """One page more for a request that is being moved, if there is any."""
        world = self.world
        free = [
            request
            for request, home in world.home.items()
            if home is not None
            and request not in world.wanted
            and world.pages[request] < SPEC.capacity_pages
        ]
        moving = {move.request for move in world.moves.values()}
        chosen = [request for request in free if request in moving] or free
        if chosen:
            request = RequestId(int(self.rng.choice(chosen)))
            self.grown_in_flight += request in moving
            self.tell(events.Grow(request=request, pages=world.pages[request] + 1))

    def end(self) -> None:
        """All moves end, then one request after the other: everybody gets a place."""
        placed: set[RequestId] = set()
        for _ in range(10 * self.asked):
            self.now_s += 1.0
            for move in list(self.world.moves):
                self.tell(events.MoveCommitted(move=move))
            self.tell(events.Tick(now_s=self.now_s))
            placed |= {r for r, home in self.world.home.items() if home is not None}
            done = [r for r, home in self.world.home.items() if home is not None]
            if done:
                self.tell(events.Finish(request=done[0]))
        assert not self.world.home, f"{self.world.home} never got a place"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_growth_in_the_middle_of_a_move_is_counted_at_both_ends(policy: str) -> None:
    grown = 0
    for seed in SEEDS:
        traffic = Traffic(policy, seed=seed)
        traffic.run()
        grown += traffic.grown_in_flight
        traffic.end()
    assert grown > 100 or policy in NEVER_MOVE


def extend_at_the_source_only(
    self: Machine, request: RequestAccount, pages: int
) -> bool:
    """As `Machine._extend`, but nobody looks whether the target has room."""
    more = pages - request.pages
    ends = self._ends(request)
    if self.ledger.slack(ends[0]) < more:
        return False
    for instance in ends:
        self.ledger.charge(instance, pages=more, rows=0)
    if request.move is not None:
        self.ledger.leave(ends[0], pages=more)
    request.pages = pages
    request.tenant.charge(pages=more)
    return True


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - set(NEVER_MOVE)))
def test_a_machine_that_forgets_the_target_of_a_growing_one_is_found_out(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(Machine, "_extend", extend_at_the_source_only)
    with pytest.raises(AssertionError, match="pages"):
        for seed in SEEDS:
            Traffic(policy, seed=seed).run()
