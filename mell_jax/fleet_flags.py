"""Flags of `mell-simulate` about devices, what they cost and how they are lost.

--devices=devices.csv                                     kinds, counts, prices
--losses_per_hour=0.05 --loss_seed=1 --repair_s=600       what is lost, and comes back
--reserve=1                                               room for what is lost
"""

from dataclasses import replace
from pathlib import Path

from absl import flags

from mell_jax.scheduler.simulator.devices import Devices, read_devices
from mell_jax.scheduler.simulator.settings import Settings, with_devices

_DEVICES = flags.DEFINE_string(
    "devices",
    None,
    "This CSV has kind,count,capacity_tokens,speed,price_per_hour"
    "[,spot_losses_per_hour]; policies open what is cheapest.",
)
_LOSSES_PER_HOUR = flags.DEFINE_float(
    "losses_per_hour", 0.0, "A device in use is lost so often, with all that it holds."
)
_LOSS_SEED = flags.DEFINE_integer(
    "loss_seed", 0, "Losses are drawn from this seed.", lower_bound=0
)
_REPAIR_S = flags.DEFINE_float(
    "repair_s", 300.0, "A lost device can be had again after so long."
)
_RESERVE = flags.DEFINE_integer(
    "reserve",
    0,
    "`consolidate` keeps so much room free that what so many devices hold fits "
    "elsewhere at once when they are lost.",
    lower_bound=0,
)
_OF_TABLE = ("capacity_tokens", "max_devices")  # that stand in the table instead


def reserve() -> int:
    """Returns for how many lost devices there is to be room."""
    return int(_RESERVE.value)


def largest_tokens() -> int | None:
    """Returns the most tokens that a device of the table holds; None without one.

    Raises:
      ValueError: the table is none, or a flag says something else beside it.
    """
    devices = _read(_DEVICES.value)
    return max(own.capacity_tokens for own in devices) if devices else None


def make_fleet(settings: Settings) -> Settings:
    """Returns `settings` with the devices and losses that the flags here ask for.

    Raises:
      ValueError: as of `largest_tokens`, or a rate is out of range.
    """
    settings = replace(
        settings,
        losses_per_hour=_LOSSES_PER_HOUR.value,
        loss_seed=_LOSS_SEED.value,
        repair_s=_REPAIR_S.value,
    )
    devices = _read(_DEVICES.value)
    return with_devices(settings, devices) if devices else settings


def _read(path: str | None) -> tuple[Devices, ...]:
    if path is None:
        return ()
    for name in _OF_TABLE:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} beside --devices={path}: it stands in the table, leave the "
                "flag out"
            )
    return read_devices(Path(path))
