"""Faults are named in one line, and wrong names are refused."""

import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import NO_FAULT, Fault, PlantedError, parse_fault
from mell_jax.scheduler.ids import DeviceGroupId


def test_faults_are_parsed() -> None:
    assert parse_fault("") == NO_FAULT == FleetConfig().fault
    assert parse_fault("move:3") == Fault(move_every=3)
    assert parse_fault("hang:2,flip:1") == Fault(hang=2, flip=1)
    assert parse_fault("raise:2:10") == Fault(raise_on=(DeviceGroupId(2), 10))


@pytest.mark.parametrize("text", ["move", "move:x", "raise:1", "hang:1;flip:1", "m:1"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault must be"):
        parse_fault(text)


def test_faults_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        parse_fault("move:0")
    with pytest.raises(ValueError, match="counted from 1"):
        parse_fault("raise:0:0")


def test_a_fault_happens_where_and_when_it_is_due() -> None:
    fault = Fault(move_every=2, raise_on=(DeviceGroupId(1), 3))
    assert [fault.moves_at(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    fault.check(DeviceGroupId(0), step=3)
    fault.check(DeviceGroupId(1), step=2)
    with pytest.raises(PlantedError, match="step 3 of device 1"):
        fault.check(DeviceGroupId(1), step=3)


def test_a_fleet_is_told_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="transport must be"):
        FleetConfig(transport="carrier pigeon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience_epochs must be"):
        FleetConfig(patience_epochs=0)


def test_a_stalled_device_gives_no_result_from_its_step_on() -> None:
    class Here:
        is_ready = True

        def wait(self) -> None:
            pass

    fault = parse_fault("stall:1:3")
    assert fault == Fault(stall_on=(DeviceGroupId(1), 3))
    real = Here()
    assert fault.result(DeviceGroupId(0), step=9, real=real) is real
    assert fault.result(DeviceGroupId(1), step=3, real=real) is real  # of step 2
    assert not fault.result(DeviceGroupId(1), step=4, real=real).is_ready
    assert NO_FAULT.result(DeviceGroupId(1), step=4, real=real) is real
    with pytest.raises(ValueError, match="counted from 1"):
        parse_fault("stall:1:0")
    with pytest.raises(ValueError, match="stall_s must be > 0"):
        FleetConfig(stall_s=0.0)
