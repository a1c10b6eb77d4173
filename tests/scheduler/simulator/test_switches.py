"""All switches at once, in any mixture: every request is served."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.pace import FixedPace
from mell_jax.scheduler.simulator.prefixes import Prefixes
from mell_jax.scheduler.simulator.profile import StepSpeed
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from tests.scheduler.simulator.by_hand import workload
from tests.scheduler.simulator.test_figures import PLAIN

MODELS = (ModelId("a"), ModelId("b"))
STEPS = StepSpeed(
    prefill_token_s=1e-3, prefill_pair_s=1e-3, token_budget=16, max_rows=6
)
FLEET = Settings(
    capacity_tokens=160,
    page_tokens=10,
    weights={MODELS[0]: 1.0, MODELS[1]: 0.5},
    kv_bytes_per_token=100,
    devices_per_host=2,
    warm_s=0.1,
    step_time=StepTime(fixed_s=0.02, row_s=0.002, page_s=1e-4),
    prefill_tokens_per_s=200.0,
)


@st.composite
def loads(draw: st.DrawFn) -> Workload:
    """Prompts are of blocks of 10 tokens, which often begin alike."""
    count = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = rng.integers(1, 90, count)
    choices = rng.integers(0, 2, (count, 9))
    names = [
        np.cumsum(row * 2 ** np.arange(9)) + 1000 * np.arange(9) for row in choices
    ]
    blocks = [
        name[: -(-n // 10)].tolist() for name, n in zip(names, inputs, strict=True)
    ]
    return Workload(
        arrival_s=np.sort(rng.uniform(0, 8, count)),
        input_tokens=inputs,
        output_tokens=rng.integers(1, 60, count),
        models=tuple(MODELS[at] for at in rng.integers(0, 2, count)),
        name="drawn",
        blocks=tuple(blocks) if draw(st.booleans()) else None,
        block_tokens=10,
    )


switches = st.fixed_dictionaries(
    {
        "steps": st.sampled_from([None, STEPS]),
        "max_devices": st.sampled_from([3, 5, 40]),
        "link_gbps": st.sampled_from([math.inf, 1e-6, 1e-4]),
        "host_gbps": st.sampled_from([math.inf, 1e-5]),
        "switch_gbps": st.sampled_from([math.inf, 1e-5]),
        "activation_s": st.sampled_from([0.0, 0.3, 3.0]),
        "load_s": st.sampled_from([{}, {MODELS[0]: 1.0}]),
        "warm_devices": st.sampled_from([0, 2]),
        "page_tokens": st.sampled_from([5, 10]),
    }
)


@settings(max_examples=100, deadline=None)
@given(load=loads(), chosen=switches, policy=st.sampled_from(sorted(POLICIES)))
def test_every_request_is_served_whatever_is_switched_on(
    load: Workload, chosen: dict[str, Any], policy: str
) -> None:
    fleet = replace(FLEET, **chosen)
    machine = Machine(models=fleet.models(), policy=POLICIES[policy](PolicyConfig()))
    simulated = SimulatedFleet(
        machine, workload=load, settings=fleet, clock=lambda: 0.0
    )
    meter = simulated.run()
    machine.ledger.check()
    assert meter.served_requests + meter.rejected == len(load)
    assert min(meter.wait_s, default=0.0) >= 0
    assert min(meter.latencies.ttft_s, default=1.0) > 0
    assert min(meter.latencies.tpot_s, default=1.0) > 0
    if load.blocks is None:
        assert meter.prefix_hit_tokens == 0


def test_nothing_is_computed_while_a_device_loads() -> None:
    agenda = Agenda()
    pace = FixedPace(
        PLAIN,  # a prompt takes no time
        agenda=agenda,
        prefixes=Prefixes(workload([(0.0, 15, 5)]), settings=PLAIN),
        ready_s={DeviceGroupId(0): 3.0},
        reached=lambda request: None,
    )
    request = Request(
        RequestId(0), arrived_s=0.0, input_tokens=15, output_tokens=5, model=ONLY_MODEL
    )
    request.device, request.pages = DeviceGroupId(0), 2
    pace.start(request)
    assert (pace.computed(request), pace.moved_tokens(request)) == (0, 0)
    agenda.now_s = 3.2
    assert pace.computed(request) == 17
