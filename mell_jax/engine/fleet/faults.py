"""Faults are planted in a fleet by its tests: named in one line, none by default.

move:1         every request moves to the next instance, every step
raise:2:10     the tenth step of the fleet raises on device 2
hang:3         the third transfer of pages never arrives
flip:1         the first transfer arrives with one byte changed
"""

import re
from dataclasses import dataclass, replace

from mell_jax.scheduler.ids import DeviceGroupId


class PlantedError(Exception):
    """A planted fault raises this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something goes wrong; steps and transfers are counted from 1."""

    move_every: int | None = None  # steps
    raise_on: tuple[DeviceGroupId, int] | None = None  # device, step
    hang: int | None = None  # transfer
    flip: int | None = None  # transfer

    def __post_init__(self) -> None:
        at = self.raise_on[1] if self.raise_on is not None else None
        for value in (self.move_every, at, self.hang, self.flip):
            if value is not None and not (value >= 1):
                raise ValueError(f"faults are counted from 1, got {value}")

    def moves_at(self, step: int) -> bool:
        return self.move_every is not None and step % self.move_every == 0

    def check(self, device: DeviceGroupId, *, step: int) -> None:
        """Raises the planted error where and when it is due."""
        if self.raise_on == (device, step):
            raise PlantedError(f"planted in step {step} of device {device}")


NO_FAULT = Fault()


def parse_fault(text: str) -> Fault:
    """Reads faults with commas between, such as "move:1,raise:2:10"; "" is none.

    Raises:
      ValueError: the text says something else.
    """
    fault = NO_FAULT
    for part in filter(None, text.split(",")):
        found = re.fullmatch(
            r"(move|hang|flip):([0-9]{1,6})|raise:([0-9]{1,6}):([0-9]{1,6})", part
        )
        if found is None:
            raise ValueError(
                "fault must be move:STEPS, raise:DEVICE:STEP, hang:TRANSFER or "
                f"flip:TRANSFER, or several with commas between, got {part[:50]!r}"
            )
        match found[1], int(found[2] or found[4]):
            case "move", count:
                fault = replace(fault, move_every=count)
            case "hang", count:
                fault = replace(fault, hang=count)
            case "flip", count:
                fault = replace(fault, flip=count)
            case _, count:
                fault = replace(fault, raise_on=(DeviceGroupId(int(found[3])), count))
    return fault
