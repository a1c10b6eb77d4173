"""Small decoders with weights that are all different, and what plans make of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mell_jax.checkpoints import spec_in_memory
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.models.decoder import Decoder
from mell_jax.models.serving_copy import serving_copy
from mell_jax.models.serving_form import ServingForm, to_serving_form
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.step import put_weights, split_model

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
CONFIG = uniform_config(**SIZES, qkv_bias=True, has_qk_norm=True)
JOINED = ServingForm(is_joined=True, is_turned=True)
PLAIN = ServingForm()


def make_decoder(
    seed: int, *, dtype: Any = jnp.float32, config: Any = CONFIG
) -> Decoder:
    """A decoder all of whose parameters are random."""
    decoder = Decoder(config, rngs=nnx.Rngs(0), dtype=dtype)
    random = np.random.default_rng(seed)
    for _, parameter in nnx.to_flat_state(nnx.state(decoder, nnx.Param)):
        values = 0.5 * random.standard_normal(parameter.shape)
        parameter[...] = jnp.asarray(values, dtype)
    return decoder


def groups_of(*ids: Sequence[int], config: Any = CONFIG) -> list[DeviceGroup]:
    devices = jax.devices()
    return [
        DeviceGroup.of_model(config, devices=[devices[i] for i in some]) for some in ids
    ]


def plan_for(
    module: Any,
    *,
    groups: Sequence[DeviceGroup],
    form: ServingForm = JOINED,
    dtype: Any = jnp.float32,
    eos_ids: tuple[int, ...] = (),
) -> WeightsPlan:
    served = serving_copy(module, dtype=dtype)
    spec = spec_in_memory(module.config, eos_ids=eos_ids)
    return WeightsPlan(served, spec=spec, form=form, groups=groups)


def built_weights(
    module: Any,
    *,
    group: DeviceGroup,
    form: ServingForm = JOINED,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, ...]:
    """What an engine is built with, by the way that a start goes."""
    served = serving_copy(module, dtype=dtype)
    to_serving_form(served, form=form)
    parts, weights = split_model(*nnx.split(served))
    return put_weights(weights, paths=parts.paths, group=group)


def same(made: Any, plan: WeightsPlan, device: int, expected: Any) -> bool:
    """Whether all places of a group have these values, types and shardings."""
    found = dict(made.parts(device))
    assert sorted(found) == list(range(len(expected)))
    for number, array in enumerate(expected):
        mine = found[number]
        assert mine.shape == array.shape, plan.places[number]
        assert mine.dtype == array.dtype, plan.places[number]
        assert mine.committed, plan.places[number]
        assert mine.sharding.is_equivalent_to(array.sharding, mine.ndim)
        if not np.array_equal(np.asarray(mine), np.asarray(array)):
            return False
    return True
