"""Reads a decoder's parameters from the Orbax tree of another program.

Leaves are read one at a time, and the last one stays until another is asked for: what
is made of one array of all layers comes one after the other.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.abstract import AbstractDecoder
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import ParameterPath, Weight
from mell_jax.checkpoints.json_file import shown
from mell_jax.checkpoints.orbax import ROOTS, Key, array_leaf, read_array
from mell_jax.checkpoints.sources import Shape, Source
from mell_jax.checkpoints.trees import TREES, TreeLayout
from mell_jax.models.config import ModelConfig

_LORA = re.compile(r"(?:^|[._/])lora(?:[._/]|$)", re.IGNORECASE)
TREE_ROOTS = (*(".".join(root) for root in ROOTS), "transformer", "params.transformer")


@dataclass(slots=True, kw_only=True)
class ForeignTree:
    """The leaves of a checkpoint by their names; a `Reader` of sources."""

    folder: Path
    layout: TreeLayout
    keys: Mapping[str, Key]
    leaves: Mapping[Key, Any]
    dtype: npt.DTypeLike
    _last: tuple[str, npt.NDArray[Any]] | None = field(default=None, init=False)
    """The leaf that was read last, and its values in the precision that was asked."""

    def shape(self, name: str) -> Shape:
        return tuple(self._leaf(name).shape)

    def read(
        self,
        name: str,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        wanted = np.dtype(self.dtype if dtype is None else dtype)
        last = self._last
        if last is None or (last[0], last[1].dtype) != (name, wanted):
            self._last = last = None  # before the next one is there
            values = read_array(self.folder, self.keys[name])
            self._last = last = name, values.astype(wanted, copy=False)
        return last[1] if rows is None else last[1][rows]

    def find(self, model: AbstractDecoder, *, config: ModelConfig) -> list[Weight]:
        """Returns what every parameter of `model` is made of, leaf by leaf.

        Raises:
          CheckpointError: a leaf is missing, misshapen or unknown.
        """
        shapes = {
            name: tuple(self.leaves[key].shape) for name, key in self.keys.items()
        }
        sources = self.layout.sources(config, shapes)
        found = [
            self._weight(path, sources[path], shape=model.shape(path))
            for path, _ in model.items()
        ]
        used = {name for one in found for name in one.source.names()}
        extra = [
            name
            for name in self.keys
            if name not in used and not name.startswith(self.layout.ignored)
        ]
        if extra:
            raise CheckpointError(
                f"{self.folder}: {len(extra)} arrays of {self.layout.program} that "
                f"this model has no place for, such as {shown(extra[0])}; do they "
                "belong to this config?"
            )
        return sorted(found, key=lambda one: next(one.source.names()))

    def _weight(self, path: ParameterPath, source: Source, *, shape: Shape) -> Weight:
        made = source.shape(self)
        if made != shape:
            leaves = [f"{name} {list(self.shape(name))}" for name in source.names()]
            raise CheckpointError(
                f"{self.folder}: {'.'.join(map(str, path))} of shape {list(shape)} "
                f"cannot be made of {self.layout.program}'s {', '.join(leaves)}; do "
                "they belong to this config?"
            )
        stored = np.dtype(self._leaf(next(source.names())).dtype)
        size_bytes = math.prod(shape) * stored.itemsize
        return Weight(path=path, source=source, size_bytes=size_bytes)

    def _leaf(self, name: str) -> Any:
        if name not in self.keys:
            raise CheckpointError(
                f"{self.folder}: array {shown(name)} of {self.layout.program} is "
                "missing; do these parameters belong to this config?"
            )
        return array_leaf(self.folder, self.keys[name], self.leaves)


def refuse_adapters(folder: Path, leaves: Mapping[Key, Any]) -> None:
    """Refuses parameters of LoRA, by whatever program: they would not be applied.

    Raises:
      CheckpointError: there are some, with the way out.
    """
    names = [".".join(key) for key in leaves]
    found = [name for name in names if _LORA.search(name)]
    if found:
        raise CheckpointError(
            f"{folder}: {len(found)} arrays of LoRA, such as {shown(found[0])}, which "
            "are not applied here; add each pair to its weight (a @ b * alpha / rank) "
            "with the program that trained it, and save the merged model"
        )


def find_tree(
    folder: Path, leaves: Mapping[Key, Any], *, dtype: npt.DTypeLike
) -> ForeignTree | None:
    """Returns the tree of a known program that `leaves` are, None if they are none.

    Args:
      leaves: see `saved_leaves`.
      dtype: in which arrays are read.
    """
    for root in TREE_ROOTS:
        keys = dict(_below(root, leaves))
        shapes = dict.fromkeys(keys, ())
        for layout in TREES:
            if layout.is_like(shapes):
                return ForeignTree(
                    folder=folder, layout=layout, keys=keys, leaves=leaves, dtype=dtype
                )
    return None


def _below(root: str, leaves: Mapping[Key, Any]) -> Iterator[tuple[str, Key]]:
    """Yields the leaves below a root by name; keys with slashes count as several."""
    start = f"{root}." if root else ""
    for key in leaves:
        steps = key[:-1] if key[-1] == "value" else key  # saved as an nnx.State
        name = ".".join(steps).replace("/", ".")
        if name.startswith(start):
            yield name.removeprefix(start), key
