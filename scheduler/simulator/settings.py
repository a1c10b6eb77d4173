"""Settings describe the simulated fleet, its speeds, and what an instance holds."""

import math
from dataclasses import dataclass, field

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Speeds are per request; each device has its own link, each way.

    Moves that replay tokens may take `prefill_share` of an instance's prefill.
    `weights` gives KV memory per token of each model, relative to `capacity_tokens`.
    """

    capacity_tokens: int
    page_tokens: int = 16
    epoch_s: float = 1.0
    decode_tokens_per_s: float = 33.0
    prefill_tokens_per_s: float = 8000.0  # inf: a prompt takes no time
    prefill_share: float = 0.25
    link_gbps: float = 200.0  # inf: a migration takes no time
    kv_bytes_per_token: int = 131072
    max_devices: int = 1000
    activation_s: float = 0.0
    weights: dict[ModelId, float] = field(default_factory=lambda: {ONLY_MODEL: 1.0})
    step_time: StepTime = field(default_factory=StepTime)
    tpot_slo_s: float = math.inf
    do_bounds: bool = True  # L2 at every epoch

    def __post_init__(self) -> None:
        for name in (
            "capacity_tokens",
            "page_tokens",
            "epoch_s",
            "decode_tokens_per_s",
            "kv_bytes_per_token",
            "max_devices",
        ):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        for name in ("prefill_tokens_per_s", "link_gbps", "tpot_slo_s"):
            value = getattr(self, name)
            if not (value > 0):
                raise ValueError(
                    f"{name} must be > 0, or inf for no limit, got {value}"
                )
        if not (0 <= self.activation_s < math.inf):
            raise ValueError(f"activation_s must be >= 0, got {self.activation_s}")
        if not (0 < self.prefill_share <= 1):
            raise ValueError(
                f"prefill_share must be in (0, 1], got {self.prefill_share}"
            )
        for model, weight in self.weights.items():
            if not (0 < weight < math.inf):
                raise ValueError(f"the weight of {model} must be > 0, got {weight}")
            if not (self.capacity_tokens / weight >= self.page_tokens):
                raise ValueError(
                    f"{self.capacity_tokens} capacity_tokens do not hold one page of "
                    f"{self.page_tokens} tokens of {model}, weight {weight}: raise the "
                    "capacity or lower page_tokens"
                )

    def models(self) -> dict[ModelId, ModelSpec]:
        """Returns what an instance of each model can hold."""
        return {
            model: ModelSpec(
                capacity_pages=int(self.capacity_tokens / weight / self.page_tokens),
                growth_pages_per_s=self.decode_tokens_per_s / self.page_tokens,
                step_time=self.step_time,
                step_budget_s=self.tpot_slo_s,
                load_s=self.activation_s,
                page_tokens=self.page_tokens,
                keeps_last=False,
                page_bytes=self.page_bytes(model),
            )
            for model, weight in self.weights.items()
        }

    @property
    def replay_tokens_per_s(self) -> float:
        """Prefill that an instance can spare for moves."""
        return self.prefill_share * self.prefill_tokens_per_s

    def token_bytes(self, model: ModelId) -> float:
        """KV bytes of a token."""
        return self.kv_bytes_per_token * self.weights[model]

    def page_bytes(self, model: ModelId) -> float:
        return self.page_tokens * self.token_bytes(model)
