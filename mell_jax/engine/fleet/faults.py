"""Faults are planted in a fleet by its tests: named in one line, none by default.

move:1         every request moves to the next instance, every step
raise:2:10     the tenth step of the fleet raises on device 2
stall:2:10     the tenth step of the fleet never ends on device 2, nor does a later one
hang:3         the third transfer of pages never arrives
flip:1         the first transfer arrives with one byte changed
"""

import re
import threading
from dataclasses import dataclass, replace

from mell_jax.engine.fleet.arrivals import Result
from mell_jax.scheduler.ids import DeviceGroupId


class PlantedError(Exception):
    """A planted fault raises this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something goes wrong; steps and transfers are counted from 1."""

    move_every: int | None = None  # steps
    raise_on: tuple[DeviceGroupId, int] | None = None  # device, step
    stall_on: tuple[DeviceGroupId, int] | None = None  # device, step
    hang: int | None = None  # transfer
    flip: int | None = None  # transfer

    def __post_init__(self) -> None:
        steps = [one[1] for one in (self.raise_on, self.stall_on) if one is not None]
        for value in (self.move_every, *steps, self.hang, self.flip):
            if value is not None and not (value >= 1):
                raise ValueError(f"faults are counted from 1, got {value}")

    def moves_at(self, step: int) -> bool:
        return self.move_every is not None and step % self.move_every == 0

    def check(self, device: DeviceGroupId, *, step: int) -> None:
        """Raises the planted error where and when it is due."""
        if self.raise_on == (device, step):
            raise PlantedError(f"planted in step {step} of device {device}")

    def result(self, device: DeviceGroupId, *, step: int, real: Result) -> Result:
        """Returns the result of a device as it is seen: never ready, or the real one.

        Results are asked for a step after their own was launched.
        """
        if self.stall_on is None:
            return real
        stalled, at = self.stall_on
        return NEVER if device == stalled and step > at else real


class _Never:
    """A result that never comes."""

    is_ready = False

    def wait(self) -> None:
        threading.Event().wait()


NEVER = _Never()
NO_FAULT = Fault()


def parse_fault(text: str) -> Fault:
    """Reads faults with commas between, such as "move:1,raise:2:10"; "" is none.

    Raises:
      ValueError: the text says something else.
    """
    fault = NO_FAULT
    for part in filter(None, text.split(",")):
        found = re.fullmatch(
            r"(move|hang|flip):([0-9]{1,6})|(raise|stall):([0-9]{1,6}):([0-9]{1,6})",
            part,
        )
        if found is None:
            raise ValueError(
                "fault must be move:STEPS, raise:DEVICE:STEP, stall:DEVICE:STEP, "
                "hang:TRANSFER or flip:TRANSFER, or several with commas between, "
                f"got {part[:50]!r}"
            )
        device = DeviceGroupId(int(found[4] or 0))
        match found[1] or found[3], int(found[2] or found[5]):
            case "move", count:
                fault = replace(fault, move_every=count)
            case "hang", count:
                fault = replace(fault, hang=count)
            case "flip", count:
                fault = replace(fault, flip=count)
            case "stall", count:
                fault = replace(fault, stall_on=(device, count))
            case _, count:
                fault = replace(fault, raise_on=(device, count))
    return fault
