"""Finds what each parameter of a `Decoder` is made of in a GGUF file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.abstract import AbstractDecoder
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import Sources, Weight, left_over
from mell_jax.checkpoints.gguf.model import GgufModel, PackedTensor
from mell_jax.checkpoints.gguf.read import read_packed
from mell_jax.checkpoints.gguf.rope import ROPE_TENSORS
from mell_jax.checkpoints.json_file import shown
from mell_jax.checkpoints.sources import Array, Shape

_BELONG = "does the file hold a whole model of its architecture?"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufWeights:
    """The tensors of a file, read in one precision; a `Reader` of sources."""

    path: Path
    tensors: Mapping[str, PackedTensor]
    dtype: npt.DTypeLike

    def shape(self, name: str, /) -> Shape:
        return self.tensor(name).shape

    def read(
        self,
        name: str,
        /,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Array:
        packed = self.tensor(name)
        return read_packed(
            packed if rows is None else packed.rows(rows),
            dtype=self.dtype if dtype is None else dtype,
        )

    def tensor(self, name: str) -> PackedTensor:
        """Returns the tensor that the file calls `name`.

        Raises:
          CheckpointError: there is none.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: tensor {name[:100]!r} is missing; {_BELONG}"
            )
        return self.tensors[name]

    def cost(self, weights: list[Weight]) -> str:
        """Returns in words what it takes in memory that blocks are unpacked."""
        stored, values = sum(weight.size_bytes for weight in weights), 0
        kinds: Counter[str] = Counter()
        for name in {name for weight in weights for name in weight.source.names()}:
            packed = self.tensors[name]
            kinds[packed.format.name] += packed.size_bytes
            values += prod(packed.shape)
        dtype = np.dtype(self.dtype)
        return (
            f"{self.path}: {stored / 1e6:.0f} MB of "
            f"{', '.join(kind for kind, _ in kinds.most_common())} are dequantised to "
            f"{values * dtype.itemsize / 1e6:.0f} MB of {dtype.name}"
        )


def find_gguf_weights(
    model: GgufModel,
    decoder: AbstractDecoder,
    *,
    sources: Sources,
    dtype: npt.DTypeLike,
) -> tuple[GgufWeights, list[Weight]]:
    """Returns what every parameter is made of, in the order of the file.

    Raises:
      CheckpointError: a tensor is missing, misshapen or unknown.
    """
    stored = GgufWeights(path=model.path, tensors=model.tensors, dtype=dtype)
    weights = []
    for path, _ in decoder.items():
        source, shape = sources[path], decoder.shape(path)
        first = stored.tensor(next(source.names()))
        if source.shape(stored) != shape:
            raise CheckpointError(
                f"{first} has the shape {list(first.shape)}, but the metadata make "
                f"{'.'.join(map(str, path))} {list(shape)}; {_BELONG}"
            )
        size_bytes = prod(shape) * first.size_bytes // prod(first.shape)
        weights.append(Weight(path=path, source=source, size_bytes=size_bytes))
    for name, values in left_over(weights, stored).items():
        packed = stored.tensor(name)
        raise CheckpointError(
            f"{packed} has the shape {list(packed.shape)}, but the metadata have use "
            f"for {values} of its {prod(packed.shape)} values; {_BELONG}"
        )
    used = {name for weight in weights for name in weight.source.names()}
    used.update(ROPE_TENSORS)
    if extra := [name for name in stored.tensors if name not in used]:
        raise CheckpointError(
            f"{model.path}: {len(extra)} tensors that this model has no place for: "
            f"{', '.join(map(shown, extra[:3]))}; {_BELONG}"
        )
    order = {name: place for place, name in enumerate(stored.tensors)}
    weights.sort(key=lambda weight: order[next(weight.source.names())])
    return stored, weights
