"""The demo model on a fleet: the same tokens and log probabilities, moved or not.

Four instances on two devices, so that pages cross devices and little is compiled.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.fleet.harness import FleetHarness
from mell_jax.bench.still import Still
from mell_jax.engine.admin import (
    Command,
    Pause,
    Resume,
    Sleep,
    UpdateWeights,
    Wake,
)
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.faulty_transport import FaultyTransport
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.permute import Permute
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.transport import Checked, DevicePut, Transport
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.frames import Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.load_balance import build_load_balance
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import ToyArrivals
from tests.toy import Transcript

STREAMS = 64
FLEET = FleetConfig()
NEW_TOKENS = 20
DEVICES = [DeviceGroupId(n) for n in range(4)]


@pytest.fixture(scope="module")
def harness() -> FleetHarness:
    config = EngineConfig(
        instances=4,
        device_ids=(0, 0, 1, 1),
        max_rows=24,
        decode_rows=(24,),
        token_budget=64,
        max_model_len=128,
        kv_pages=161,
    )
    return FleetHarness(build_engine(config))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fleet that does something to its requests."""

    config: FleetConfig = FLEET
    make_policy: Callable[[], Policy] = lambda: build_load_balance(PolicyConfig())
    is_permuted: bool = False
    capacity_pages: int = 160
    gbps: float = math.inf
    is_used: Callable[[Fleet], bool]  # whether it did
    between: Callable[[Fleet], None] = lambda fleet: None  # before each step


def moved_all(fleet: Fleet) -> bool:
    return fleet.stats().count(MoveOutcome.COMMITTED) > 3 * STREAMS


def moved_both_ways(fleet: Fleet) -> bool:
    return {ended.mode for ended in fleet.stats().ended} == set(Mode)


ALWAYS = Fault(move_every=1)
CASES = {
    "device_put": Case(
        config=FleetConfig(mode=Mode.KV, fault=ALWAYS), is_used=moved_all
    ),
    "permute": Case(
        config=FleetConfig(mode=Mode.KV, fault=ALWAYS),
        is_permuted=True,
        is_used=moved_all,
    ),
    "tokens": Case(
        config=FleetConfig(mode=Mode.TOKENS, fault=Fault(move_every=4)),
        is_used=lambda fleet: fleet.stats().count(MoveOutcome.COMMITTED) > STREAMS,
    ),
    "mixed": Case(
        config=FleetConfig(fault=Fault(move_every=3)),
        gbps=0.02,
        is_used=moved_both_ways,
    ),
    "preempted": Case(
        capacity_pages=24, is_used=lambda fleet: fleet.stats().preemptions > 0
    ),
    "lost": Case(
        config=FleetConfig(fault=Fault(raise_on=(DeviceGroupId(1), 12))),
        is_used=lambda fleet: fleet.stats().replays > 0,
    ),
    "damaged": Case(
        config=FleetConfig(mode=Mode.KV, fault=Fault(move_every=2, flip=1)),
        is_used=moved_all,
    ),
}


def serve(harness: FleetHarness, case: Case) -> Transcript:
    """All streams at once, on a fleet of their own; checks that it did what it says."""
    transport: Transport = DevicePut()
    if case.is_permuted:
        groups = {device: worker.group for device, worker in harness.workers.items()}
        shape = jax.eval_shape(harness.workers[DEVICES[0]]._new_pool)
        page = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
        transport = Permute(groups, page=page)
    fleet = harness.open_fleet(
        case.make_policy(),
        clock=Clock(),
        arrivals=ToyArrivals(),  # so that faults come where they are planted
        config=case.config,
        spec=replace(harness.spec, capacity_pages=case.capacity_pages, load_s=0.0),
        transport=Checked(FaultyTransport(transport, fault=case.config.fault)),
        profile=Profile(
            bytes_per_s={
                (a, b): case.gbps * 1e9 / 8 for a in DEVICES for b in DEVICES if a != b
            },
            prefill_tokens_per_s={
                (device, harness.models[0]): 1e4 for device in DEVICES
            },
        ),
    )
    for handle in range(STREAMS):
        fleet.submit(stream(handle))
    seen = Transcript()
    while fleet.has_work or len(seen.finished) < STREAMS:  # or it rests
        case.between(fleet)
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    assert fleet.conductor.is_at_rest
    assert case.is_used(fleet), f"it did not do what it is called: {fleet.stats()}"
    harness.close_fleet(fleet)
    return seen


def stream(handle: int) -> Submit:
    """Every other one greedy, the others seeded; lengths from 1 to 64."""
    is_greedy = handle % 2 == 0
    rng = np.random.default_rng(handle)
    return Submit(
        handle=Handle(handle),
        prompt=rng.integers(3, 400, handle + 1).astype(np.int32),
        params=SamplingParams(
            temperature=0.0 if is_greedy else 0.9,
            top_p=1.0 if is_greedy else 0.95,
            seed=handle,
            max_tokens=NEW_TOKENS,
            ignore_eos=True,
            logprobs=3,
        ),
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s


@pytest.fixture(scope="module")
def still(harness: FleetHarness) -> Transcript:
    """The streams when nothing moves and nothing is lost."""
    return serve(
        harness,
        Case(
            make_policy=lambda: Still(len(DEVICES)),
            is_used=lambda fleet: (
                not fleet.stats().ended and not fleet.stats().preemptions
            ),
        ),
    )


@pytest.mark.parametrize("name", CASES)
def test_ids_and_log_probabilities_are_those_of_streams_left_alone(
    harness: FleetHarness, still: Transcript, name: str
) -> None:
    before = harness.compilations.count
    seen = serve(harness, CASES[name])
    assert len(seen.tokens) == STREAMS
    assert seen.tokens == still.tokens
    for handle in range(STREAMS):
        assert_close(seen.logprobs[handle], still.logprobs[handle])
    if not CASES[name].is_permuted:  # it compiles its lanes, here and not at the start
        assert harness.compilations.count == before


class SameWeights:
    """Copies of the weights that are there, and so many times as large."""

    def __init__(self, fleet: Fleet, *, times: float = 1.0) -> None:
        self._held = fleet.instance_pool.held(ModelId("demo"))
        self._times = times
        self.is_streamed = times == 1.0
        self.is_own = True
        self.kept: frozenset[int] = frozenset()
        self.nbytes = self._held[DEVICES[0]].nbytes

    def parts(
        self, device: DeviceGroupId, *, over: Callable[[int], jax.Array | None]
    ) -> Iterator[tuple[int, jax.Array]]:
        for place, array in enumerate(self._held[device].arrays):
            yield place, array * jnp.asarray(self._times, array.dtype)


@dataclass
class Changes:
    """Asks for something at every so many steps."""

    commands: Sequence[Callable[[Fleet], Command]]
    every: int
    count: int = 0

    def __call__(self, fleet: Fleet) -> None:
        self.count += 1
        turn, is_off = divmod(self.count, self.every)
        if not is_off:
            fleet.administer(self.commands[turn % len(self.commands)](fleet))


UPDATES = [
    lambda fleet, then=then: UpdateWeights(
        weights=SameWeights(fleet), open_requests=then
    )
    for then in ("keep", "keep", "restart")
]
RESTS = [
    lambda fleet: Sleep(level=1),
    lambda fleet: Wake(),
    lambda fleet: Pause(),
    lambda fleet: Sleep(level=2),
    lambda fleet: Wake(),
    lambda fleet: Resume(),
]


@pytest.mark.parametrize("commands", [UPDATES, RESTS], ids=["updates", "rests"])
def test_changes_to_the_same_weights_and_rests_change_no_answer(
    harness: FleetHarness, still: Transcript, commands: Any
) -> None:
    changes = Changes(commands, every=4)
    case = Case(
        config=FleetConfig(fault=Fault(move_every=3)),
        is_used=lambda fleet: changes.count > 16 and not fleet.stats().losses,
        between=changes,
    )
    for device in DEVICES[::2]:  # what makes new weights compiles, the engine does not
        for array in harness.workers[device].held.arrays:
            _ = array * jnp.asarray(1.0, array.dtype)
    before = harness.compilations.count
    seen = serve(harness, case)
    assert seen.tokens == still.tokens
    for handle in range(STREAMS):
        assert_close(seen.logprobs[handle], still.logprobs[handle])
    assert harness.compilations.count == before


def test_other_weights_say_something_else_until_they_are_changed_back(
    harness: FleetHarness, still: Transcript
) -> None:
    held = [worker.held for worker in harness.workers.values()]
    assert held[0] is held[1]  # on one device
    assert held[1] is not held[2]
    case = Case(is_used=lambda fleet: True)
    for times in (1.25, 0.8):
        fleet = harness.open_fleet(Still(4), clock=Clock(), config=FLEET)
        weights = SameWeights(fleet, times=times)
        fleet.administer(UpdateWeights(weights=weights))
        harness.close_fleet(fleet)
        said = serve(harness, case)
        agree = [said.tokens[n] == still.tokens[n] for n in range(STREAMS)]
        assert all(agree) if times < 1 else sum(agree) < STREAMS / 2


def assert_close(seen: list[Any], still: list[Any]) -> None:
    """Up to what float32 loses when a step has other rows and shapes."""
    for (chosen, top_ids, top), (chosen_0, top_ids_0, top_0) in zip(
        seen, still, strict=True
    ):
        assert top_ids[:3] == top_ids_0[:3]
        np.testing.assert_allclose(chosen, chosen_0, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(top[:3], top_0[:3], rtol=1e-5, atol=1e-5)
