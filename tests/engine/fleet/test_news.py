"""What a fleet tells the log while it works."""

import logging
from collections import Counter

import pytest

from mell_jax.engine.admin import SetPolicy
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.params import SamplingParams
from mell_jax.events import LOGGER_NAME
from mell_jax.scheduler.ids import DeviceGroupId
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import submit


def run(fleet: Fleet) -> None:
    for handle in range(12):
        params = SamplingParams(temperature=0.0, max_tokens=30)
        submit(fleet, [handle + 1] * 40, handle=handle, params=params)
    for _ in range(5000):
        fleet.step()
        if not fleet.has_work:
            break
    for _ in range(20):
        fleet.step()  # epochs in which what is idle is parked


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if hasattr(record, "event")]


def test_instances_come_and_go_as_often_as_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = toy_fleet(devices=3, num_pages=12)
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        run(fleet)
    seen, stats = Counter(events(caplog)), fleet.stats()
    assert stats.activations > 0
    assert seen["instance_opened"] == stats.activations
    assert seen["instance_parked"] == stats.parkings == stats.activations - 1 > 0
    opened = next(r for r in caplog.records if r.event == "instance_opened")
    assert opened.fields["device"] in (0, 1, 2)
    assert opened.fields["took_s"] > 0.0


def test_aborted_moves_are_told_and_committed_ones_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1)))
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        run(fleet)
    stats = fleet.stats()
    assert stats.count(MoveOutcome.COMMITTED) > 0
    assert stats.count(MoveOutcome.ABORTED) > 0  # those whose requests ended meanwhile
    told = [r for r in caplog.records if r.event == "migration_aborted"]
    assert len(told) == stats.count(MoveOutcome.ABORTED)
    assert all(record.fields["source"] != record.fields["target"] for record in told)


def test_a_device_that_fails_is_told_with_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(raise_on=(DeviceGroupId(0), 5))
    fleet = toy_fleet(config=FleetConfig(fault=fault))
    run(fleet)
    (record,) = [r for r in caplog.records if r.event == "device_fenced"]
    assert (record.levelname, record.fields["device"]) == ("ERROR", 0)
    assert record.exc_info is not None
    assert "PlantedError" in str(record.exc_info[0])


def test_another_policy_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        toy_fleet().administer(SetPolicy(policy="mell"))
    (record,) = [r for r in caplog.records if hasattr(r, "event")]
    assert record.event == "policy_changed"
    assert record.fields == {"policy": "mell", "before": "consolidate"}
