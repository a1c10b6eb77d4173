"""Several models on the same device groups: all served, none mixed up, none starved."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.models import FleetModel, shared_page_tokens
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.test_fleet import assert_at_rest, run
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected

PLAIN, TRIPLE, FIFTH = ModelId("plain"), ModelId("triple"), ModelId("fifth")
FACTORS = {PLAIN: 1, TRIPLE: 3}


def send(
    fleet: Fleet, prompt: list[int], *, handle: int, model: str, count: int = 20
) -> None:
    fleet.submit(
        Submit(
            handle=Handle(handle),
            prompt=np.array(prompt, np.int32),
            params=SamplingParams(temperature=0.0, max_tokens=count),
            model=model,
        )
    )


def serve_both(fleet: Fleet, *, count: int = 20) -> Transcript:
    for handle in range(14):
        model = TRIPLE if handle % 3 == 0 else PLAIN
        send(fleet, _prompt(handle), handle=handle, model=model, count=count)
    return run(fleet)


def _prompt(handle: int) -> list[int]:
    return [handle + 1] * (handle * 3 + 1)


def _answers(*, count: int = 20) -> dict[int, list[int]]:
    return {
        n: expected(_prompt(n), count=count, factor=3 if n % 3 == 0 else 1)
        for n in range(14)
    }


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_two_models_share_few_or_many_devices(devices: int) -> None:
    fleet = toy_fleet(devices=devices, factors=FACTORS)
    assert serve_both(fleet).tokens == _answers()
    assert_at_rest(fleet)


@pytest.mark.parametrize(
    "config",
    [
        FleetConfig(fault=Fault(move_every=1)),
        FleetConfig(fault=Fault(move_every=1), mode=Mode.TOKENS),
        FleetConfig(fault=Fault(raise_on=(DeviceGroupId(1), 9))),
    ],
)
def test_moves_and_losses_do_not_mix_them_up(config: FleetConfig) -> None:
    fleet = toy_fleet(devices=4, num_pages=20, factors=FACTORS, config=config)
    assert serve_both(fleet).tokens == _answers()
    assert_at_rest(fleet)


def test_equal_prompts_of_two_models_share_no_pages() -> None:
    fleet = toy_fleet(devices=2, factors=FACTORS)
    prompt = [7] * 40
    send(fleet, prompt, handle=1, model=PLAIN)
    first = run(fleet).tokens
    send(fleet, prompt, handle=2, model=TRIPLE)
    seen = run(fleet)
    assert first == {1: expected(prompt, count=20)}
    assert seen.tokens == {2: expected(prompt, count=20, factor=3)}


def test_a_request_that_names_no_model_is_for_the_first() -> None:
    fleet = toy_fleet(factors=FACTORS)
    send(fleet, [1, 2], handle=1, model="")
    assert run(fleet).tokens == {1: expected([1, 2], count=20)}


def test_an_unknown_model_is_refused_alone() -> None:
    fleet = toy_fleet(factors=FACTORS)
    send(fleet, [1], handle=1, model="gpt")
    send(fleet, [1], handle=2, model=TRIPLE)
    frame = fleet.step()
    assert frame is not None
    (refused,) = frame.finished
    assert (refused.handle, refused.reason) == (1, FinishReason.ERROR)
    assert refused.field == "model"
    assert "must be one of those served ('plain', 'triple'), got 'gpt'" in (
        refused.message
    )
    assert run(fleet).tokens == {2: expected([1], count=20, factor=3)}


def test_three_models_take_turns_on_one_device() -> None:
    factors = {PLAIN: 1, TRIPLE: 3, FIFTH: 5}
    fleet = toy_fleet(devices=1, factors=factors)
    for handle, model in enumerate(factors):
        send(fleet, [handle + 1], handle=handle, model=model, count=100)
    assert run(fleet).tokens == {
        handle: expected([handle + 1], count=100, factor=factor)
        for handle, factor in enumerate(factors.values())
    }
    assert_at_rest(fleet)


def test_a_late_model_is_served_while_the_other_has_no_end() -> None:
    fleet = toy_fleet(devices=2, num_pages=13, factors=FACTORS)
    for handle in range(20):
        send(fleet, [handle + 1] * 30, handle=handle, model=PLAIN, count=60)
    for _ in range(10):
        fleet.step()
    send(fleet, [1], handle=99, model=TRIPLE, count=5)
    seen = Transcript()
    for _ in range(40):
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    assert seen.tokens[99] == expected([1], count=5, factor=3)
    assert len(fleet.conductor.requests) > 10  # the others are at it still
    rest = run(fleet).tokens
    assert set(rest) <= set(range(20))
    assert_at_rest(fleet)


def test_models_of_one_fleet_have_different_names_and_equal_pages() -> None:
    fleet = toy_fleet(factors=FACTORS)
    first, second = (_model(info) for info in fleet.infos)
    with pytest.raises(ValueError, match="different names, got \\['plain', 'plain'\\]"):
        shared_page_tokens([first, first])
    other = dataclasses.replace(second.info, page_tokens=32)
    with pytest.raises(ValueError, match="share a page size, got \\[16, 32\\]"):
        shared_page_tokens([first, _model(other)])


def _model(info: Any) -> FleetModel:
    return FleetModel(info=info, transport=DevicePut())
