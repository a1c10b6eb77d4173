"""Lays the arrays of one instance on its devices.

    heads, MLP, vocabulary     cut over all devices of the group
    KV heads (pool, k, v)      cut over "tp", repeated over "copy"
    norms, row state, results  whole on every device

"copy" is longer than 1 only where a model has fewer KV heads than a group has devices.
The cuts are those of Megatron-LM (arXiv 1909.08053): two sums per layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mell_jax.models.config import ModelConfig

ALL = ("tp", "copy")
"""Both axes: an array dimension cut into as many parts as there are devices."""
POOL = PartitionSpec(None, None, "tp")  # [P, 2L, KS, H]
QUERIES = PartitionSpec(None, ALL)  # [T, N, H]
KEYS = PartitionSpec(None, "tp")  # [T, K, H]
LOGITS = PartitionSpec(None, ALL)  # [B, V]
WHOLE = PartitionSpec()

_COLUMNS = {"q_proj": ALL, "k_proj": "tp", "v_proj": "tp"}
_COLUMNS |= {"gate_proj": ALL, "up_proj": ALL}
_ROWS = ("o_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """A group holds the devices that one instance runs on; `of_model` makes it."""

    devices: tuple[jax.Device, ...]
    copies: int = 1  # devices that hold the same KV heads

    @classmethod
    def of_model(cls, config: ModelConfig, *, devices: Sequence[jax.Device]) -> Self:
        """Returns the group of `devices`, in this order, for a model.

        Raises:
          ValueError: the model cannot be cut into as many parts.
        """
        count = len(devices)
        if not (count >= 1 and len(set(devices)) == count):
            raise ValueError(
                "an instance needs at least one device and each only once, got "
                f"{[str(device) for device in devices]}"
            )
        for layer in config.layers:
            _check_cut("num_heads", layer.attention.num_heads, count)
            _check_cut("intermediate_size", layer.feed_forward.size, count)
        kv_heads = config.num_kv_heads
        if kv_heads % count and count % kv_heads:
            raise ValueError(
                f"tensor parallelism over {count} devices needs a model whose "
                f"num_kv_heads is a multiple or a divisor of {count}, this one's is "
                f"{kv_heads}: use another number of devices per instance"
            )
        return cls(devices=tuple(devices), copies=max(count // kv_heads, 1))

    @property
    def size(self) -> int:
        return len(self.devices)

    @property
    def kv_shards(self) -> int:
        """Returns parts that the KV heads, and so each page, are cut into."""
        return self.size // self.copies

    @property
    def mesh(self) -> Mesh:
        """Returns the devices as [tp, copy]."""
        grid = np.array(self.devices).reshape(self.kv_shards, self.copies)
        return Mesh(grid, ALL, axis_types=(AxisType.Auto, AxisType.Auto))

    @property
    def layout(self) -> AbstractMesh | None:
        """Returns the mesh without its devices, None for one device.

        All that a compiled step knows of a group, so groups of one layout share steps.
        """
        return None if self.size == 1 else self.mesh.abstract_mesh

    @property
    def replicated(self) -> jax.sharding.Sharding:
        """Returns the sharding of what is whole on every device."""
        return self._sharding(WHOLE)

    @property
    def pool_sharding(self) -> jax.sharding.Sharding:
        """Returns that of the pool [P, 2L, KS, H], and of pages gathered from it."""
        return self._sharding(POOL)

    def weight_sharding(
        self, path: Sequence[str | int], shape: tuple[int, ...]
    ) -> jax.sharding.Sharding:
        """Tells where a parameter of `models.decoder` goes; others are kept whole.

        So are those of other modules: by the same names they are cut if they can be.
        """
        return self._sharding(_weight_spec(path, shape, parts=self.size))

    def _sharding(self, spec: PartitionSpec) -> jax.sharding.Sharding:
        if self.size == 1:
            return jax.sharding.SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, spec)


def _check_cut(name: str, value: int, count: int) -> None:
    if value % count:
        raise ValueError(
            f"tensor parallelism over {count} devices needs a model whose {name} is a "
            f"multiple of {count}, this one's is {value}: use another number of "
            "devices per instance"
        )


def gather_logits(x: jax.Array, *, layout: AbstractMesh | None) -> jax.Array:
    """Returns logits [B, V] inside a compiled step, whole on every device from here on.

    Each device first computes those of its own vocabulary: asked only for whole ones,
    XLA gathers the weights instead.
    """
    if layout is None:
        return x
    own = LOGITS if x.shape[1] % layout.size == 0 else WHOLE
    x = jax.lax.with_sharding_constraint(x, NamedSharding(layout, own))
    return whole(x, layout=layout)


def whole(x: jax.Array, *, layout: AbstractMesh | None) -> jax.Array:
    """Returns `x` inside a compiled step, whole on every device from here on."""
    if layout is None:
        return x
    told: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(layout, WHOLE))
    return told


def _weight_spec(
    path: Sequence[str | int], shape: tuple[int, ...], *, parts: int
) -> PartitionSpec:
    """Kernels are [in, out], biases [out], the embedding [V, D]."""
    spec = _spec_by_name(path)
    sizes = zip(shape, spec, strict=False)
    is_cut = all(axes is None or size % parts == 0 for size, axes in sizes)
    # A vocabulary that cannot be cut is kept whole; few models have one.
    return spec if is_cut and len(spec) <= len(shape) else WHOLE


def _spec_by_name(path: Sequence[str | int]) -> PartitionSpec:
    *_, layer, kind = ("", *path)
    if layer in _COLUMNS:
        axes = _COLUMNS[str(layer)]
        return PartitionSpec(None, axes) if kind == "kernel" else PartitionSpec(axes)
    if layer in _ROWS and kind == "kernel":
        return PartitionSpec(ALL)
    if layer == "embed":
        return PartitionSpec(ALL)
    if layer == "lm_head":
        return PartitionSpec(None, ALL)
    return WHOLE
