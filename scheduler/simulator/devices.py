"""Devices of several kinds: how many there are, how large, how fast, at what price.

    kind,count,capacity_tokens,speed,price_per_hour,spot_losses_per_hour
    H100,4,160000,1.0,3.2,
    H100-spot,8,160000,1.0,1.1,0.5
    L4,16,30000,0.3,0.7,

A kind may stand in several rows under names of its own: cheaper ones that are taken
back at times are a kind, too. The last column may be left out, and so may its entries.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mell_jax.scheduler.ids import KindId
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.profile import Profile, StepSpeed

COLUMNS = ("kind", "count", "capacity_tokens", "speed", "price_per_hour")
SPOT = "spot_losses_per_hour"
MOST_DEVICES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """So many devices of a kind can be had.

    `speed` is relative to the speeds that the fleet's settings give. Where instances
    make steps, `profile` may say how long theirs take instead. A device that is in use
    is lost so often an hour; None: as often as the settings say.
    """

    kind: KindId
    count: int
    capacity_tokens: int
    speed: float = 1.0
    price_per_hour: float = 1.0
    losses_per_hour: float | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if not self.kind:
            raise ValueError("kind must be a name, got none")
        for name, most in (("count", MOST_DEVICES), ("capacity_tokens", math.inf)):
            value = getattr(self, name)
            if not (1 <= value <= most and value == int(value)):
                limit = "" if most == math.inf else f" and at most {most:,}"
                raise ValueError(
                    f"{name} of kind {self.kind} must be a whole number of at least 1"
                    f"{limit}, got {value}"
                )
        for name in ("speed", "price_per_hour"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise ValueError(
                    f"{name} of kind {self.kind} must be > 0 and finite, got {value}"
                )
        losses = self.losses_per_hour
        if not (losses is None or 0 <= losses < math.inf):
            raise ValueError(
                f"losses per hour of kind {self.kind} must be >= 0 and finite, "
                f"got {losses}"
            )

    def step_time(self, base: StepTime) -> StepTime:
        """Returns the time of a decode step, where one of speed 1 takes `base`."""
        return self.profile.step_time if self.profile else base.faster(self.speed)

    def steps(self, base: StepSpeed) -> StepSpeed:
        """Returns what else is in a step, where it is `base` for one of speed 1."""
        return self.profile.speed if self.profile else base.faster(self.speed)


def check_devices(devices: Sequence[Devices]) -> None:
    """Raises ValueError if a kind is named twice."""
    names = [each.kind for each in devices]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"kind {name} is there {names.count(name)} times: give each row a name "
                "of its own"
            )


def read_devices(path: Path) -> tuple[Devices, ...]:
    """Reads a table of devices as shown above.

    Raises:
      ValueError: it is no such file, a column is missing, an entry is out of range or a
        kind is there twice; with the line and what it should be.
    """
    if not path.is_file():
        raise ValueError(f"there is no table of devices {path}: give a .csv file")
    try:
        with path.open(newline="") as file:
            lines = csv.DictReader(file, restkey="", skipinitialspace=True)
            names = list(lines.fieldnames or [])
            rows = [(lines.line_num, row) for row in lines]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as CSV: {error}") from None
    missing = [column for column in COLUMNS if column not in names]
    unknown = [name for name in names if name not in (*COLUMNS, SPOT)]
    if missing or unknown:
        raise ValueError(
            f"{path} must have the columns {', '.join(COLUMNS)} and may have {SPOT}; "
            f"missing: {missing}, unknown: {unknown}"
        )
    if not rows:
        raise ValueError(f"{path} has no devices: it needs at least one line of them")
    devices = tuple(_row(f"{path}, line {line}", row) for line, row in rows)
    try:
        check_devices(devices)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return devices


def _row(where: str, row: dict[str, str | None]) -> Devices:
    if "" in row:
        raise ValueError(f"{where}: more entries than columns")
    spot = row.get(SPOT)
    try:
        return Devices(
            kind=KindId((row["kind"] or "").strip()),
            count=_whole(row, "count"),
            capacity_tokens=_whole(row, "capacity_tokens"),
            speed=_number(row, "speed"),
            price_per_hour=_number(row, "price_per_hour"),
            losses_per_hour=_number(row, SPOT) if spot and spot.strip() else None,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _number(row: dict[str, str | None], column: str) -> float:
    text = (row[column] or "").strip()
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{column} must be a number, got {text!r}") from None


def _whole(row: dict[str, str | None], column: str) -> int:
    value = _number(row, column)
    if not (abs(value) < math.inf and value == int(value)):
        raise ValueError(f"{column} must be a whole number, got {row[column]!r}")
    return int(value)
