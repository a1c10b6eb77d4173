"""Makes instances of a model with random weights, as an engine makes them.

Weights are drawn on the device, so that 16 GB never pass through the host. Workers come
from the engine's own blueprint; a stage compiles only the steps that it measures, for
the same pool as all others, so that it finds them among the kept ones.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.gpu.scale import GpuOrder, GpuScale
from benchmarks.kernels.timing import normal
from mell_jax.checkpoints import CheckpointSpec
from mell_jax.engine.blueprint import (
    Blueprint,
    choose_groups,
    make_blueprint,
    make_worker,
)
from mell_jax.engine.config import EngineConfig
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.layout import Bucket
from mell_jax.worker.step import (
    ModelParts,
    Programs,
    Weights,
    put_weights,
    split_model,
)

THREADS = 8  # that compile
SPREAD = 0.02  # of the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A rig has warm instances of one model on one device."""

    workers: tuple[DeviceWorker, ...]
    model: ModelConfig
    scale: GpuScale
    number_bytes: int  # of a weight

    @property
    def worker(self) -> DeviceWorker:
        """Returns the first one."""
        return self.workers[0]

    @property
    def device_kind(self) -> str:
        kind: str = self.worker.group.devices[0].device_kind
        return kind

    def decode_bucket(self, rows: int) -> Bucket:
        """Returns the step that decodes exactly so many rows."""
        return self.worker.choose_bucket(tokens=rows, rows=rows, is_decode=True)

    def chunk_bucket(self) -> Bucket:
        """Returns the step that takes a chunk of a prompt."""
        tokens = self.scale.chunk
        return self.worker.choose_bucket(tokens=tokens, rows=1, is_decode=False)


def make_rig(
    order: GpuOrder,
    *,
    batches: Sequence[int] = (),
    prefills: bool = False,
    instances: int = 1,
    layers: int | None = None,
) -> Rig:
    """Returns instances that share a device and its weights, warm.

    Args:
      order: says which model, and what is in its pools.
      batches: rows of the decode steps to compile.
      prefills: compiles the step with a chunk of a prompt, too.
      instances: each with a pool of its own.
      layers: cuts the model.
    """
    scale = order.scale
    model = scale.model
    if layers is not None:
        model = dataclasses.replace(model, layers=model.layers[:layers])
    blueprint, groups, weights = _blueprint(order, model=model, instances=instances)
    wanted = [
        bucket
        for bucket in blueprint.programs.forwards
        if (bucket.is_decode and bucket.rows in batches)
        or (prefills and not bucket.is_decode and bucket.tokens == scale.chunk)
    ]
    blueprint = dataclasses.replace(
        blueprint, programs=select(blueprint.programs, wanted)
    )
    workers = tuple(make_worker(blueprint, group=g, weights=weights) for g in groups)
    for worker in workers:
        worker.warm_up(progress=False, threads=THREADS)
    return Rig(
        workers=workers,
        model=model,
        scale=scale,
        number_bytes=blueprint.settled.dtype.itemsize,
    )


def make_whole(order: GpuOrder) -> DeviceWorker:
    """Returns an instance with every program that an engine would compile, warm."""
    blueprint, (group,), weights = _blueprint(
        order, model=order.scale.model, instances=1
    )
    worker = make_worker(blueprint, group=group, weights=weights)
    worker.warm_up(progress=False, threads=THREADS)
    return worker


def select(programs: Programs, buckets: Sequence[Bucket]) -> Programs:
    """Returns those programs alone that the steps of `buckets` dispatch."""
    rows = {bucket.rows for bucket in buckets}
    return dataclasses.replace(
        programs,
        forwards={b: p for b, p in programs.forwards.items() if b in buckets},
        scores={b: p for b, p in programs.scores.items() if b in buckets},
        samplers={n: s for n, s in programs.samplers.items() if n in rows},
    )


def random_model(
    model: ModelConfig, *, dtype: Any, seed: int, group: DeviceGroup
) -> tuple[ModelParts, Weights]:
    """Returns a decoder whose numbers are drawn where they stay."""
    decoder = nnx.eval_shape(lambda: Decoder(model, rngs=nnx.Rngs(0), dtype=dtype))
    parts, shapes = split_model(*nnx.split(decoder))
    drawn = tuple(
        normal(seed + i, leaf.shape, leaf.dtype) * jnp.asarray(SPREAD, leaf.dtype)
        for i, leaf in enumerate(shapes)
    )
    return parts, put_weights(drawn, paths=parts.paths, group=group)


def _blueprint(
    order: GpuOrder, *, model: ModelConfig, instances: int
) -> tuple[Blueprint, list[DeviceGroup], Weights]:
    scale = order.scale
    config = EngineConfig(
        dtype=scale.dtype,
        max_model_len=scale.max_tokens,
        max_rows=scale.batches[-1],
        decode_rows=scale.batches,
        token_budget=scale.chunk,
        kv_pages=scale.pool_pages,
        prefix_cache=False,
        attention_backend=order.backend,
        instances=instances,
        device_ids=(0,) * instances,
    )
    groups = choose_groups(config, model=model)
    parts, weights = random_model(
        model, dtype=jnp.dtype(scale.dtype), seed=order.seed, group=groups[0]
    )
    spec = CheckpointSpec(
        config=model, architecture="LlamaForCausalLM", model_type="llama"
    )
    blueprint = make_blueprint(
        parts, spec=spec, config=config, name="random", groups=groups
    )
    jax.block_until_ready(weights)
    return blueprint, groups, weights
