"""Settings describe the simulated fleet, its speeds, and what an instance holds."""

import math
from dataclasses import dataclass, field, replace

from mell_jax.scheduler.cache_spec import KEEPS_ALL, CacheSpec
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Speeds are per request; each device has its own link, each way.

    Moves that replay tokens may take `prefill_share` of an instance's prefill.
    `weights` gives KV memory per token of each model, relative to `capacity_tokens`.
    Tokens of `capacity_tokens` are of all layers; a page is of `layers_per_page` of
    `num_layers`, and a sequence holds of the pool what `cache` tells, in every model.
    """

    capacity_tokens: int
    page_tokens: int = 16
    cache: CacheSpec = KEEPS_ALL
    layers_per_page: int = 1
    num_layers: int = 1
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
        self._check_cache()

    def _check_cache(self) -> None:
        groups, size = self.cache.num_groups, self.layers_per_page
        if not (1 <= size <= self.num_layers <= size * groups):
            raise ValueError(
                f"{groups} groups of {size} layers_per_page must have room for "
                f"num_layers, and a page for no more, got {self.num_layers}: take all "
                "of them from one layout"
            )
        if not self.cache.is_plain and self.cache.page_tokens != self.page_tokens:
            raise ValueError(
                f"page_tokens is {self.page_tokens}, but the rings of cache are of "
                f"pages of {self.cache.page_tokens} tokens: make it with the same"
            )
        for model, spec in self.models().items():
            if not (spec.capacity_pages >= self.cache.held(1)):
                raise ValueError(
                    f"{self.capacity_tokens} capacity_tokens hold "
                    f"{spec.capacity_pages} pages of {model}, but its first token "
                    f"needs {groups}, one of each group of layers: raise the capacity"
                )

    def models(self) -> dict[ModelId, ModelSpec]:
        """Returns what an instance of each model can hold."""
        growing = sum(group.ring is None for group in self.cache.groups)
        return {
            model: ModelSpec(
                capacity_pages=self._capacity_pages(weight),
                growth_pages_per_s=growing
                * self.decode_tokens_per_s
                / self.page_tokens,
                step_time=self.step_time,
                step_budget_s=self.tpot_slo_s,
                load_s=self.activation_s,
                page_tokens=self.page_tokens,
                keeps_last=False,
                page_bytes=self.page_bytes(model),
                cache=replace(self.cache, page_tokens=self.page_tokens),
            )
            for model, weight in self.weights.items()
        }

    def _capacity_pages(self, weight: float) -> int:
        whole = self.capacity_tokens / weight / self.page_tokens  # of all layers
        return int(whole * self.num_layers / self.layers_per_page)

    @property
    def replay_tokens_per_s(self) -> float:
        """Prefill that an instance can spare for moves."""
        return self.prefill_share * self.prefill_tokens_per_s

    def token_bytes(self, model: ModelId) -> float:
        """KV bytes of a token in all layers."""
        return self.kv_bytes_per_token * self.weights[model]

    def page_bytes(self, model: ModelId) -> float:
        """KV bytes of a page of the pool."""
        whole = self.page_tokens * self.token_bytes(model)
        return whole * self.layers_per_page / self.num_layers

    def held_bytes_per_token(self, model: ModelId, *, tokens: int) -> float:
        """KV bytes that a sequence of `tokens` holds, for each of them.

        What a group has no layers for is in its pages, too, and goes along.
        """
        kept = sum(
            tokens if group.ring is None else min(tokens, group.ring * self.page_tokens)
            for group in self.cache.groups
        )
        share = kept * self.layers_per_page / (tokens * self.num_layers)
        return self.token_bytes(model) * share
