"""Settings describe the simulated fleet, its speeds, and what an instance holds.

What makes a run more like a real fleet is off unless it is asked for: steps whose time
depends on what is in them (`steps`), seconds of loading per model, devices that are
kept warm, links that the devices of a host share.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mell_jax.scheduler.cache_spec import KEEPS_ALL, CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind import ONLY_KIND, DeviceKind
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.simulator.devices import Devices, check_devices
from mell_jax.scheduler.simulator.profile import Profile, StepSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Speeds are per request; each device has its own link, each way.

    With `steps`, `step_time` and `steps` say how fast requests are instead; the speeds
    are then what policies reckon with. `load_s` names the models that do not load in
    `activation_s`. The `warm_devices` idle ones that load in `warm_s` are filled up
    again in the time that a model takes to load. `devices_per_host` devices share a
    link of `host_gbps` each way to a switch that carries `switch_gbps` in all.
    `tpot_slo_s` binds placement; `slo_ttft_s` and `slo_tpot_s` are reported on.
    `devices` are of several kinds, whose numbers follow each other (`with_devices`);
    `capacity_tokens` is then of the largest, and speeds are those of a kind of speed 1.
    What is in use is lost `losses_per_hour` times an hour, and there again `repair_s`
    later.

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
    steps: StepSpeed | None = None  # None: every request at the speeds above
    slo_ttft_s: float = math.inf
    slo_tpot_s: float = math.inf
    load_s: dict[ModelId, float] = field(default_factory=dict)
    warm_devices: int = 0
    warm_s: float = 0.0
    devices_per_host: int = 8  # of consecutive ids
    host_gbps: float = math.inf
    switch_gbps: float = math.inf
    devices: tuple[Devices, ...] = ()  # none: all are alike and nothing has a price
    losses_per_hour: float = 0.0
    loss_seed: int = 0
    repair_s: float = 300.0

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_devices()
        self._check_models()
        self._check_cache()
        if self.steps is not None and self.step_time.predict(rows=1, pages=1) == 0:
            raise ValueError(
                "step_time must not be 0 where instances make steps: a step of one "
                "row takes time; give it, or leave steps out"
            )

    def _check_ranges(self) -> None:
        for name in (
            "capacity_tokens",
            "page_tokens",
            "epoch_s",
            "decode_tokens_per_s",
            "kv_bytes_per_token",
            "max_devices",
            "devices_per_host",
        ):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        for name in (
            "prefill_tokens_per_s",
            "link_gbps",
            "host_gbps",
            "switch_gbps",
            "slo_ttft_s",
            "slo_tpot_s",
            "tpot_slo_s",
        ):
            value = getattr(self, name)
            if not (value > 0):
                raise ValueError(
                    f"{name} must be > 0, or inf for no limit, got {value}"
                )
        for name in (
            "activation_s",
            "warm_s",
            "warm_devices",
            "losses_per_hour",
            "loss_seed",
            "repair_s",
        ):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise ValueError(f"{name} must be >= 0 and finite, got {value}")
        if not (0 < self.prefill_share <= 1):
            raise ValueError(
                f"prefill_share must be in (0, 1], got {self.prefill_share}"
            )

    def _check_devices(self) -> None:
        if not self.devices:
            return
        check_devices(self.devices)
        count = sum(each.count for each in self.devices)
        largest = max(each.capacity_tokens for each in self.devices)
        if (self.max_devices, self.capacity_tokens) != (count, largest):
            raise ValueError(
                f"{count} devices of at most {largest} tokens are not max_devices="
                f"{self.max_devices} of capacity_tokens={self.capacity_tokens}: use "
                "with_devices"
            )
        if self.warm_devices:
            raise ValueError(
                f"warm_devices must be 0 where devices are of several kinds, got "
                f"{self.warm_devices}: a pool is of devices that are alike"
            )

    def _check_models(self) -> None:
        for model, weight in self.weights.items():
            if not (0 < weight < math.inf):
                raise ValueError(f"the weight of {model} must be > 0, got {weight}")
            if not (self.capacity_tokens / weight >= self.page_tokens):
                raise ValueError(
                    f"{self.capacity_tokens} capacity_tokens do not hold one page of "
                    f"{self.page_tokens} tokens of {model}, weight {weight}: raise the "
                    "capacity or lower page_tokens"
                )
        for model, load_s in self.load_s.items():
            if model not in self.weights:
                raise ValueError(
                    f"load_s names {model!r}, which no request is for; there are "
                    f"{sorted(self.weights)}"
                )
            if not (0 <= load_s < math.inf):
                raise ValueError(
                    f"load_s of {model} must be >= 0 and finite, got {load_s}"
                )

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
        """Returns what an instance of each model can hold; of kinds, the largest."""
        largest = max(self.offered, key=lambda own: (own.capacity_tokens, own.speed))
        return {model: self._spec(model, own=largest) for model in self.weights}

    @property
    def offered(self) -> tuple[Devices, ...]:
        """Returns all devices by kind; those that are all alike are one kind."""
        alike = Devices(
            kind=ONLY_KIND,
            count=self.max_devices,
            capacity_tokens=self.capacity_tokens,
        )
        return self.devices or (alike,)

    def fleet(self) -> dict[DeviceGroupId, Devices]:
        """Returns the kind of each device."""
        kinds = [own for own in self.offered for _ in range(own.count)]
        return {DeviceGroupId(number): own for number, own in enumerate(kinds)}

    def kinds(self) -> dict[KindId, DeviceKind]:
        """Returns what a device of each kind can hold of each model, and its price.

        Raises:
          ValueError: a step of one row takes longer on a kind than `tpot_slo_s`.
        """
        return {
            own.kind: DeviceKind(
                models={
                    model: self._spec(model, own=own)
                    for model in self.weights
                    if self._capacity_pages(model, own=own) >= self.cache.held(1)
                },
                price_per_hour=own.price_per_hour,
                speed=own.speed,
            )
            for own in self.offered
        }

    def limit(self, model: ModelId) -> int:
        """Returns the pages of the largest request that some kind can hold."""
        specs = [kind.models.get(model) for kind in self.kinds().values()]
        return max(spec.capacity(1) for spec in specs if spec is not None)

    def _spec(self, model: ModelId, *, own: Devices) -> ModelSpec:
        growing = sum(group.ring is None for group in self.cache.groups)
        rate = growing * self.decode_tokens_per_s * own.speed
        try:
            return ModelSpec(
                capacity_pages=self._capacity_pages(model, own=own),
                max_rows=self.steps.max_rows if self.steps else sys.maxsize,
                growth_pages_per_s=rate / self.page_tokens,
                step_time=own.step_time(self.step_time),
                step_budget_s=self.tpot_slo_s,
                load_s=self.loading_s(model),
                page_tokens=self.page_tokens,
                keeps_last=False,
                page_bytes=self.page_bytes(model),
                cache=replace(self.cache, page_tokens=self.page_tokens),
            )
        except ValueError as error:
            if not self.devices:
                raise
            raise ValueError(f"devices of kind {own.kind}: {error}") from None

    def _capacity_pages(self, model: ModelId, *, own: Devices) -> int:
        whole = own.capacity_tokens / self.weights[model] / self.page_tokens
        return int(whole * self.num_layers / self.layers_per_page)

    def loading_s(self, model: ModelId) -> float:
        """Returns the seconds in which a cold device loads a model."""
        return self.load_s.get(model, self.activation_s)

    @property
    def narrowest_gbps(self) -> float:
        """Returns what a link carries that any move between hosts goes through."""
        return min(self.link_gbps, self.host_gbps, self.switch_gbps)

    @property
    def are_links_shared(self) -> bool:
        """Tells whether moves divide links between hosts."""
        return min(self.host_gbps, self.switch_gbps) < math.inf

    @property
    def are_moves_instant(self) -> bool:
        """Tells whether a move takes no time."""
        return self.narrowest_gbps == math.inf

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


def with_devices(settings: Settings, devices: Sequence[Devices]) -> Settings:
    """Returns a fleet of devices of these kinds.

    Raises:
      ValueError: a kind is there twice, or none can hold a page of some model.
    """
    if not devices:
        raise ValueError("a fleet has devices of at least one kind, got none")
    return replace(
        settings,
        devices=tuple(devices),
        max_devices=sum(each.count for each in devices),
        capacity_tokens=max(each.capacity_tokens for each in devices),
    )


def settings_of(profile: Profile) -> Settings:
    """Returns a fleet of devices as profiled; `replace` what else there is to say.

    The speeds that policies reckon with are of a full instance: its rows decode
    together, and a prompt takes what it adds to their steps.
    """
    pages = profile.capacity_tokens // profile.page_tokens
    full_s = profile.decode_s(rows=profile.max_rows, pages=pages)
    return Settings(
        capacity_tokens=profile.capacity_tokens,
        page_tokens=profile.page_tokens,
        decode_tokens_per_s=1 / full_s,
        prefill_tokens_per_s=(
            1 / profile.prefill_token_s if profile.prefill_token_s else math.inf
        ),
        link_gbps=profile.link_bytes_per_s * 8 / 1e9,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        activation_s=profile.load_s,
        step_time=profile.step_time,
        steps=profile.speed,
    )
