"""An instance being given back overflows before its last request is gone."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

DEVICES = (DeviceGroupId(0), DeviceGroupId(1))


@pytest.mark.parametrize("policy", POLICIES)
def test_growth_on_a_full_instance_that_closes_is_answered(policy: str) -> None:
    """Two requests of 4 fill up to 10 pages, and the other instance is full."""
    machine = Machine(
        models={events.ONLY_MODEL: ModelSpec(capacity_pages=10)},
        policy=POLICIES[policy](PolicyConfig()),
    )
    for device in DEVICES:
        machine.step(events.DeviceAdded(device=device))
    for number, pages in enumerate((4, 4, 5, 5)):
        machine.step(events.Arrive(request=RequestId(number), pages=pages))
    machine.step(events.DeviceRemoved(device=DEVICES[0]))
    decisions: list[plan.Decision] = []
    for pages in range(5, 9):
        for number in (0, 1):
            request = machine.ledger.requests.get(RequestId(number))
            if request is None or request.device is None or request.move is not None:
                continue
            grow = events.Grow(request=request.id, pages=pages)
            decisions += machine.step(grow).decisions
            machine.ledger.check()
    assert decisions, "nothing came of growth beyond what there is"
