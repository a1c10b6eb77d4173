"""A profile says how fast one device serves one model, and how much of it fits.

    step = fixed_s + row_s * rows + page_s * pages            of the rows that decode
           + prefill_token_s * tokens                         of the chunks beside them
           + prefill_pair_s * (tokens x 1,000 before each)    their attention

`mell-bench --suite=profile` fits one on a live engine, `mell-simulate --profile=FILE`
simulates with it, and `mell-plan` makes one of a device's data sheet.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mell_jax.scheduler.placement.model import StepTime

_KILO = 1000.0
_COUNTS = (
    "token_budget",
    "max_rows",
    "capacity_tokens",
    "page_tokens",
    "kv_bytes_per_token",
)
_TIMES = ("prefill_token_s", "prefill_pair_s", "load_s")
_STEP_TIMES = ("fixed_s", "row_s", "page_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpeed:
    """A step takes this besides its decodes, and so much goes into one; see above."""

    prefill_token_s: float
    prefill_pair_s: float = 0.0
    token_budget: int
    max_rows: int
    plans_ahead: bool = False

    def __post_init__(self) -> None:
        for name in ("prefill_token_s", "prefill_pair_s"):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
        for name in ("token_budget", "max_rows"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")

    def faster(self, times: float) -> "StepSpeed":
        """Returns the speed of a device that is so many times as fast."""
        return replace(
            self,
            prefill_token_s=self.prefill_token_s / times,
            prefill_pair_s=self.prefill_pair_s / times,
        )

    def prefill_s(self, *, start: int, tokens: int) -> float:
        """Returns what a chunk adds to its step: `tokens` after `start` others."""
        pairs = tokens * start + tokens * (tokens + 1) / 2  # each sees itself, too
        return self.prefill_token_s * tokens + self.prefill_pair_s * pairs / _KILO


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of device with one model on it, as measured or worked out.

    `step_time` is of a step's decoding rows and the pages of all layers that they hold;
    a step takes at most `token_budget` tokens, one for each of these rows and the rest
    of prompts. `prefill_pair_s` is for each prefilled token and 1,000 tokens of its
    sequence before it. A link carries `link_bytes_per_s` each way; inf: at once.
    An engine that `plans_ahead` has planned the next step when one begins, as ours has:
    a prompt that comes meanwhile is computed from the step after the next.
    """

    name: str
    step_time: StepTime
    prefill_token_s: float
    prefill_pair_s: float = 0.0
    token_budget: int
    max_rows: int
    capacity_tokens: int
    page_tokens: int
    kv_bytes_per_token: int
    load_s: float
    link_bytes_per_s: float
    plans_ahead: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a text of a profile, got {self.name!r}")
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or not (value >= 1):
                raise ValueError(
                    f"{name} of a profile must be a whole number >= 1, got {value!r}"
                )
        for name in _TIMES:
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(
                    f"{name} of a profile must be seconds, finite and >= 0, "
                    f"got {value!r}"
                )
        if not (_is_number(self.link_bytes_per_s) and self.link_bytes_per_s > 0):
            raise ValueError(
                "link_bytes_per_s of a profile must be > 0, or inf (null in a file) "
                f"for no limit, got {self.link_bytes_per_s!r}"
            )
        if not isinstance(self.plans_ahead, bool):
            raise ValueError(
                f"plans_ahead of a profile is true or false, got {self.plans_ahead!r}"
            )
        if not (self.capacity_tokens >= self.page_tokens):
            raise ValueError(
                f"{self.capacity_tokens} capacity_tokens of a profile do not hold a "
                f"page of {self.page_tokens} tokens: raise the capacity"
            )
        if not (self.decode_s(rows=1, pages=1) > 0):
            raise ValueError(
                "step_time of a profile must not be 0: a step of one row takes time"
            )

    def decode_s(self, *, rows: int, pages: int) -> float:
        """Returns the seconds of a step that decodes `rows` with `pages` in all."""
        return self.step_time.predict(rows=rows, pages=pages)

    def prefill_s(self, *, start: int, tokens: int) -> float:
        """Returns what a chunk adds to its step: `tokens` after `start` others."""
        return self.speed.prefill_s(start=start, tokens=tokens)

    @property
    def speed(self) -> StepSpeed:
        """Returns what the simulator needs beside `step_time`."""
        return StepSpeed(
            prefill_token_s=self.prefill_token_s,
            prefill_pair_s=self.prefill_pair_s,
            token_budget=self.token_budget,
            max_rows=self.max_rows,
            plans_ahead=self.plans_ahead,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_profile(path: Path, *, profile: Profile) -> None:
    """Writes a profile as JSON, which `read_profile` reads."""
    content = asdict(profile)
    if profile.link_bytes_per_s == math.inf:
        content["link_bytes_per_s"] = None
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_profile(path: Path) -> Profile:
    """Reads a profile that `write_profile` wrote, or somebody by hand.

    Raises:
      ValueError: it is not JSON, a field is missing, unknown or out of range; the
        message names the file.
      OSError: it cannot be read.
    """
    try:
        return profile_of(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): give a profile") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text: give a profile, as JSON") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def profile_of(content: Any) -> Profile:
    """Returns the profile of parsed JSON.

    Raises:
      ValueError: a field is missing, unknown or out of range.
    """
    known = {field.name for field in fields(Profile)}
    values = _fields(
        content, known=known, optional={"prefill_pair_s", "plans_ahead"}, what="profile"
    )
    steps = _fields(
        values["step_time"],
        known=set(_STEP_TIMES),
        optional=set(_STEP_TIMES),
        what="step_time",
    )
    for name, value in steps.items():
        if not _is_number(value):
            raise ValueError(f"{name} of step_time must be seconds, got {value!r}")
    if values["link_bytes_per_s"] is None:
        values["link_bytes_per_s"] = math.inf
    return Profile(**(values | {"step_time": StepTime(**steps)}))


def _fields(
    content: Any, *, known: set[str], optional: set[str], what: str
) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"a {what} is an object with {sorted(known)}, got {content!r}")
    if unknown := sorted(set(content) - known):
        raise ValueError(f"a {what} has no {unknown}; it has {sorted(known)}")
    if missing := sorted(known - optional - set(content)):
        raise ValueError(f"a {what} lacks {missing}: add them")
    return dict(content)
