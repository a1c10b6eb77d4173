"""A blueprint holds what the instances of a model share; workers have the rest.

    groups = choose_groups(config, model=spec.config)
    model = load_model(..., sharding_for=groups[0].weight_sharding)
    parts, first = split_model(model.graphdef, model.state)
    weights = [put_weights(first, paths=parts.paths, group=g) for g in groups]
    blueprint = make_blueprint(parts, spec=spec, config=config, groups=groups, ...)
    workers = [
        make_worker(blueprint, group=g, weights=w) for g, w in zip(groups, weights)
    ]

Weights come first, since the pools take what they leave. Groups may name the same
device: instances that share it share its compiled steps too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mell_jax.checkpoints import CheckpointSpec
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.default_params import default_params
from mell_jax.engine.frames import EngineInfo
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.settled import SettledConfig, choose_dtypes, settle
from mell_jax.models.config import ModelConfig
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from mell_jax.worker.pool import (
    PAGE_TOKENS,
    choose_num_pages,
    free_bytes,
    make_pool,
    page_bytes,
)
from mell_jax.worker.step import (
    ModelParts,
    Programs,
    StepOptions,
    Weights,
    make_programs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A blueprint holds what the instances of a model have in common."""

    spec: CheckpointSpec
    settled: SettledConfig
    num_pages: int  # of each instance's pool, scratch page included
    shares_prefixes: bool
    programs: Programs  # compiled for each group that calls them
    info: EngineInfo
    platform: str  # "cpu", "gpu" or "tpu"


def choose_groups(config: EngineConfig, *, model: ModelConfig) -> list[DeviceGroup]:
    """Returns the groups of `config.instances` instances, in the order of devices.

    Raises:
      ValueError: there are not as many devices, or the model cannot be cut so.
    """
    found = jax.devices()
    size, wanted = config.tensor_parallel, config.instances * config.tensor_parallel
    ids = config.device_ids if config.device_ids is not None else range(wanted)
    if not (max(ids) < len(found)):
        raise ValueError(
            f"a mesh of {config.instances}x{size} uses device {max(ids)}, but jax "
            f"finds {len(found)} ({found[0].platform}), numbered from 0; without "
            "accelerators, --cpu_devices shows the CPU as many devices"
        )
    return [
        DeviceGroup.of_model(
            model, devices=[found[i] for i in ids[start : start + size]]
        )
        for start in range(0, wanted, size)
    ]


def settle_on(
    config: EngineConfig, *, spec: CheckpointSpec, groups: Sequence[DeviceGroup]
) -> SettledConfig:
    """Settles `config`; the context is bounded by what fits the tightest group now.

    Called before loading, to find mistakes early, and again with what weights leave.

    Raises:
      ValueError: the configuration contradicts itself, the model or the devices.
    """
    platform = groups[0].devices[0].platform
    _, kv_dtype = choose_dtypes(config, platform=platform)
    size = page_bytes(spec.config, dtype=jnp.dtype(kv_dtype), platform=platform)
    pages = config.kv_pages or _budget_bytes(config, groups) // size
    return settle(
        config,
        model=spec.config,
        platform=platform,
        device_kind=groups[0].devices[0].device_kind,
        capacity_pages=max(pages - 1, 0),
    )


def make_blueprint(
    parts: ModelParts,
    *,
    spec: CheckpointSpec,
    config: EngineConfig,
    name: str,
    groups: Sequence[DeviceGroup],
) -> Blueprint:
    """Returns what the instances on `groups` share; nothing is compiled yet.

    Call it when the weights of all groups are in place and no pool is: the pools take
    what is left.

    Raises:
      ValueError: the configuration contradicts the model or the devices.
    """
    settled = settle_on(config, spec=spec, groups=groups)
    num_pages = _num_pages(config, settled, spec=spec, groups=groups)
    platform = groups[0].devices[0].platform
    options = StepOptions(
        attention_backend=settled.attention_backend,
        places=lay_out(spec.config).places,
        page_tokens=PAGE_TOKENS,
        layout=groups[0].layout,
    )
    return Blueprint(
        spec=spec,
        settled=settled,
        num_pages=num_pages,
        shares_prefixes=config.prefix_cache,
        programs=make_programs(
            parts, buckets=settled.buckets(), options=options, platform=platform
        ),
        info=_info(
            spec,
            settled,
            name=name,
            num_pages=num_pages,
            params=default_params(spec.sampling, logprobs_mode=config.logprobs_mode),
        ),
        platform=platform,
    )


def make_worker(
    blueprint: Blueprint, *, group: DeviceGroup, weights: Weights | HeldWeights
) -> DeviceWorker:
    """Makes the hands of an instance on `group`; `warm_up` them before use.

    `weights` lie on the group already; instances on the same devices may share them.
    """
    settled, config = blueprint.settled, blueprint.spec.config
    return DeviceWorker(
        blueprint.programs,
        group=group,
        weights=weights,
        pool=make_pool(
            config, num_pages=blueprint.num_pages, dtype=settled.kv_dtype, group=group
        ),
        max_rows=settled.max_rows,
        vocab_size=config.vocab_size,
    )


def make_batcher(blueprint: Blueprint, *, has_news: bool = False) -> Batcher:
    """Makes the books of an instance.

    Args:
      has_news: notes what its prefix cache holds, for somebody who takes that away.
    """
    return Batcher(
        PrefixCache(PagePool(blueprint.num_pages), news=[] if has_news else None),
        limits=_limits(blueprint),
        spec=blueprint.settled.cache,
        shares_prefixes=blueprint.shares_prefixes,
    )


def _limits(blueprint: Blueprint) -> BatchLimits:
    settled = blueprint.settled
    is_cpu = blueprint.platform == "cpu"  # elsewhere neither of the two was measured
    return BatchLimits(
        max_rows=settled.max_rows,
        token_budget=settled.token_budget,
        max_tokens=settled.max_model_len,
        mixed_tokens=settled.mixed_tokens if is_cpu else (),
        lands_for_owed=is_cpu,
    )


def _budget_bytes(config: EngineConfig, groups: Sequence[DeviceGroup]) -> int:
    """Returns the bytes for each pool: instances that share memory get equal parts."""
    shares = [free_bytes(group) // _count_sharing(group, groups) for group in groups]
    return int(min(shares) * config.kv_memory_fraction)


def _count_sharing(group: DeviceGroup, groups: Sequence[DeviceGroup]) -> int:
    """Returns how many of `groups` allocate where `group` does, itself included."""
    if group.devices[0].platform == "cpu":
        return len(groups)
    return sum(not set(group.devices).isdisjoint(other.devices) for other in groups)


def _num_pages(
    config: EngineConfig,
    settled: SettledConfig,
    *,
    spec: CheckpointSpec,
    groups: Sequence[DeviceGroup],
) -> int:
    if config.kv_pages is not None:
        needed = settled.cache.held(settled.max_pages) + 1
        if not (config.kv_pages >= needed):
            raise ValueError(
                f"kv_pages ({config.kv_pages}) must be at least {needed}: a scratch "
                f"page and one sequence of {settled.max_model_len} tokens; give more "
                "pages or a smaller max_model_len"
            )
        return config.kv_pages
    return choose_num_pages(
        spec.config,
        dtype=settled.kv_dtype,
        platform=groups[0].devices[0].platform,
        budget_bytes=_budget_bytes(config, groups),
        per_sequence=settled.cache.held(settled.max_pages),
        max_rows=settled.max_rows,
    )


def _info(
    spec: CheckpointSpec,
    settled: SettledConfig,
    *,
    name: str,
    num_pages: int,
    params: SamplingParams,
) -> EngineInfo:
    return EngineInfo(
        model_name=name,
        model_type=spec.model_type,
        architecture=spec.architecture,
        vocab_size=spec.config.vocab_size,
        eos_token_ids=spec.eos_ids,
        bos_token_id=spec.bos_id,
        max_model_len=settled.max_model_len,
        max_rows=settled.max_rows,
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
        default_params=params,
    )
