"""Reads the tensors of a directory by a decoder's names, dense and in one precision.

Whatever stands before the names, and however they are quantised: what a parameter is
made of (`sources`) is told once for all of them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.quantised import Scheme, is_unused, is_zero_bias
from mell_jax.checkpoints.quantization_marks import find_quantization
from mell_jax.checkpoints.safetensors_file import (
    WEIGHT_DTYPES,
    StoredTensor,
    read_raw,
    read_tensor,
)
from mell_jax.checkpoints.sources import Shape, Source

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
"""What stands before the names of a decoder: alone, in models that see, or cut out."""
SIGHT = (
    *("vision_tower.", "vision_model.", "visual.", "vision_embed_tokens."),
    *("multi_modal_projector.", "audio_tower.", "embed_vision.", "embed_audio."),
)
"""What stands before the names of parts that see or hear; they are not loaded."""
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Constants that old files carry and that we compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """The tensors of a directory, read in one precision; a `Reader` of sources.

    They answer to the names that a decoder alone has.
    """

    directory: Path
    tensors: Mapping[str, StoredTensor]
    prefix: str
    dtype: npt.DTypeLike
    scheme: Scheme | None

    @classmethod
    def of_tensors(
        cls,
        tensors: Mapping[str, StoredTensor],
        *,
        directory: Path,
        dtype: npt.DTypeLike,
        scheme: Scheme | None = None,
    ) -> Self:
        """Returns the weights of `directory`, all of whose tensors are given.

        Raises:
          CheckpointError: they are quantised, and nothing says how.
        """
        marked = find_quantization(tensors) if scheme is None else None
        if marked is not None:
            kind, name = marked
            raise CheckpointError(
                f"{tensors[name]}: these weights are quantised ({kind}), but no file "
                "says how: take the quantization_config of the same model into "
                "config.json, or its float32, float16 or bfloat16 weights"
            )
        ending = EMBEDDING.removeprefix(PREFIXES[0])
        found = [prefix for prefix in PREFIXES if f"{prefix}{ending}" in tensors]
        return cls(
            directory=directory,
            tensors=tensors,
            prefix=found[0] if found else PREFIXES[0],
            dtype=dtype,
            scheme=scheme,
        )

    def has(self, name: str) -> bool:
        """Tells whether there is a tensor that a decoder calls `name`."""
        return self.stored_name(name) in self.tensors or bool(self._quantised(name))

    def shape(self, name: str) -> Shape:
        parts = self._quantised(name)
        if not parts or self.scheme is None:
            return self.tensor(name).shape
        shapes = {part: self.tensors[part].shape for part in parts}
        return self.scheme.dense_shape(self.stored_name(name), shapes)

    def read(
        self,
        name: str,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        dtype = self.dtype if dtype is None else dtype
        parts = self._quantised(name)
        if parts and self.scheme is not None:
            return self.scheme.dequantise(
                self.stored_name(name),
                names=parts,
                read=lambda part: read_raw(self.tensors[part]),
                dtype=dtype,
                rows=rows,
            )
        tensor = self.tensor(name)
        return read_tensor(tensor if rows is None else tensor.rows(rows), dtype=dtype)

    def position(self, source: Source) -> tuple[Path, int]:
        """Returns where the first tensor of a source lies."""
        first = self._all_of(next(source.names()))[0]
        return first.path, first.start_byte

    def size_bytes(self, source: Source, *, shape: Shape) -> int:
        """Returns the stored bytes of a source of this shape, about."""
        names = list(dict.fromkeys(source.names()))
        stored = sum(part.size_bytes for name in names for part in self._all_of(name))
        values = sum(math.prod(self.shape(name)) for name in names)
        return stored * math.prod(shape) // max(values, 1)

    def quantised_bytes(self, names: Iterable[str]) -> tuple[int, int]:
        """Returns the bytes of tensors that are quantised: as stored, and dense."""
        stored = dense = 0
        for name in names:
            parts = self._quantised(name)
            stored += sum(self.tensors[part].size_bytes for part in parts)
            if parts:
                size = math.prod(self.shape(name))
                dense += size * np.dtype(self.dtype).itemsize
        return stored, dense

    def unused(self, used: Iterable[str]) -> tuple[list[StoredTensor], list[str]]:
        """Returns the tensors that nothing is made of, and the names of those that
        change nothing.
        """
        known = {part.name for name in used for part in self._all_of(name)}
        left, needless = [], []
        for name, tensor in self.tensors.items():
            is_sight = name.removeprefix("model.").startswith(SIGHT)
            if name in known or is_sight or name.endswith(IGNORED_SUFFIXES):
                continue
            if is_unused(name) or self._is_empty_bias(tensor):
                needless.append(name)
            else:
                left.append(tensor)
        return left, needless

    def stored_name(self, name: str) -> str:
        """Returns the directory's own word for a decoder's tensor."""
        if name.startswith(PREFIXES[0]):
            return self.prefix + name.removeprefix(PREFIXES[0])
        inside = f"{self.prefix.removesuffix('model.')}{name}"
        return inside if inside in self.tensors else name

    def tensor(self, name: str) -> StoredTensor:
        """Returns the tensor that a decoder calls `name`.

        Raises:
          CheckpointError: there is none, or it holds no weights.
        """
        stored = self.stored_name(name)
        if stored not in self.tensors:
            raise CheckpointError(
                f"{self.directory}: tensor {stored!r} is missing; does config.json "
                "belong to these weights?"
            )
        tensor = self.tensors[stored]
        if tensor.dtype_name not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{tensor} has the dtype {tensor.dtype_name}; weights must be one of "
                f"{', '.join(WEIGHT_DTYPES)}"
            )
        return tensor

    def _all_of(self, name: str) -> list[StoredTensor]:
        """The tensors that a decoder's one is stored as."""
        parts = self._quantised(name)
        return [self.tensors[part] for part in parts] or [self.tensor(name)]

    def _quantised(self, name: str) -> tuple[str, ...]:
        """The names of its parts; none where it is stored as it is."""
        if self.scheme is None:
            return ()
        return self.scheme.parts(self.stored_name(name), self.tensors)

    def _is_empty_bias(self, tensor: StoredTensor) -> bool:
        if self.scheme is None or tensor.dtype_name not in WEIGHT_DTYPES:
            return False
        name = tensor.name
        return name.endswith(".bias") and is_zero_bias(name, read_tensor(tensor))
