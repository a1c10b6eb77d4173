"""A model's instance is limited in pages and in time per output token."""

import math
import sys
from dataclasses import dataclass, field

from mell_jax.scheduler.cache_spec import KEEPS_ALL, CacheSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The model predicts `fixed_s + row_s * rows + page_s * pages` per output token.

    The coefficients are fitted by the engine or given to the simulator.
    """

    fixed_s: float = 0.0
    row_s: float = 0.0
    page_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fixed_s", "row_s", "page_s"):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise ValueError(f"{name} must be finite and not negative, got {value}")

    def faster(self, times: float) -> "StepTime":
        """Returns the time on a device that is so many times as fast."""
        return StepTime(
            fixed_s=self.fixed_s / times,
            row_s=self.row_s / times,
            page_s=self.page_s / times,
        )

    def predict(self, *, rows: int, pages: int) -> float:
        return self.fixed_s + self.row_s * rows + self.page_s * pages


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The spec says what one model can hold on one device group.

    Capacity is a vector, folded into one number: `capacity(rows)` is the most pages
    that an instance with so many rows may hold within the pool and the time budget.
    """

    capacity_pages: int
    max_rows: int = sys.maxsize  # requests that an instance runs at once
    growth_pages_per_s: float = 0.0  # of a request that decodes
    step_time: StepTime = field(default_factory=StepTime)
    step_budget_s: float = math.inf
    load_s: float = 0.0
    weights_bytes: int = 0
    page_tokens: int = 16
    keeps_last: bool = True  # its last instance stays while nobody wants the device
    page_bytes: float = 0.0  # KV bytes of a page: what a link carries
    cache: CacheSpec = KEEPS_ALL  # which pages a sequence holds

    def __post_init__(self) -> None:
        if not (self.capacity_pages >= 1):
            raise ValueError(f"capacity_pages must be >= 1, got {self.capacity_pages}")
        if not (self.max_rows >= 1):
            raise ValueError(f"max_rows must be >= 1, got {self.max_rows}")
        if not (0 <= self.growth_pages_per_s < math.inf):
            raise ValueError(
                f"growth_pages_per_s must be >= 0, got {self.growth_pages_per_s}"
            )
        alone = self.step_time.predict(rows=1, pages=1)
        if not (alone <= self.step_budget_s):
            raise ValueError(
                f"a step of one row takes {alone} s, more than step_budget_s "
                f"({self.step_budget_s}); allow more time or fix the fit"
            )

    @property
    def is_time_bound(self) -> bool:
        return self.step_budget_s < math.inf

    def capacity(self, rows: int) -> int:
        """Returns the most pages beside `rows` rows; negative if they are too many."""
        if rows > self.max_rows:
            return -1
        if not self.is_time_bound:
            return self.capacity_pages
        left = self.step_budget_s - self.step_time.predict(rows=rows, pages=0)
        if left < 0:
            return -1
        if self.step_time.page_s == 0:
            return self.capacity_pages
        return min(self.capacity_pages, int(left / self.step_time.page_s + 1e-9))
