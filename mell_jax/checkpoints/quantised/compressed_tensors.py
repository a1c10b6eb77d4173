"""Weights as compressed-tensors (LLM Compressor) stores them, whole or packed.

    weight             I8 or F8_E4M3 [out, in]
    weight_packed      I32 [out, ceil(in * bits / 32)]
    weight_scale       any float: [1], [out, 1], [out, groups] or one per block
    weight_zero_point  I8 as the scales; packed: I32 [ceil(out * bits / 32), groups]
    weight_shape       I64 [2]
    weight_g_idx       I32 [in], the group of each input where they are in no order

Packed codes are unsigned: half of their range is added to what they mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.quantised.affine import (
    Affine,
    Codes,
    FloatArray,
    dequantise,
    runs,
)
from mell_jax.checkpoints.quantised.codes import (
    WORD_BITS,
    as_float,
    as_groups,
    unpack,
)
from mell_jax.checkpoints.quantised.fp8 import (
    FP8_TYPES,
    block_scales,
    channel_scales,
    decoder,
)
from mell_jax.checkpoints.quantised.layout import PartNames, Shape, matrix_shape

Parts = Mapping[str, npt.NDArray[Any]]


class Strategy(Enum):
    """Scales are of this much of a weight."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    GROUP = "group"
    BLOCK = "block"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTensors:
    """A weight is whole numbers or float8, with scales by a strategy."""

    bits: int  # of a packed value; 8 where they are not packed
    is_float: bool
    is_packed: bool
    strategy: Strategy
    group_size: int = 1  # columns; of groups
    block: tuple[int, int] = (1, 1)  # rows and columns; of blocks

    @property
    def part_names(self) -> PartNames:
        others = ("weight_zero_point", "weight_g_idx")
        if self.is_packed:
            return PartNames(
                markers=("weight_packed",),
                required=("weight_scale", "weight_shape"),
                optional=others,
            )
        return PartNames(
            markers=("weight_scale",), required=("weight",), optional=others
        )

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        if not self.is_packed:
            return shapes["weight"]
        rows, words = matrix_shape(shapes["weight_packed"])
        if self.strategy is not Strategy.GROUP:
            return rows, words * WORD_BITS // self.bits
        _, groups = matrix_shape(shapes["weight_scale"])
        return rows, groups * self.group_size

    def dequantise(
        self, parts: Parts, *, dtype: npt.DTypeLike, rows: slice | None = None
    ) -> npt.NDArray[Any]:
        shapes = {part: array.shape for part, array in parts.items()}
        shape = matrix_shape(self.dense_shape(shapes))
        if self.is_packed:
            codes = self._packed_codes(parts, shape)
        else:
            codes = self._whole_codes(parts["weight"])
        zeros = self._zeros(parts, shape[0])
        scales = self._scales(parts["weight_scale"], shape)
        if zeros is not None and zeros.size == 1:
            zeros = np.broadcast_to(zeros.reshape(1, 1), scales.shape)
        matrix = Affine(
            shape=shape,
            codes=codes,
            scales=scales,
            zeros=zeros,
            groups=self._groups(parts, shape[1]),
        )
        return dequantise(matrix, dtype=dtype, rows=rows)

    def _packed_codes(self, parts: Parts, shape: tuple[int, int]) -> Codes:
        packed, stored = parts["weight_packed"], parts["weight_shape"]
        if stored.shape != (2,) or stored.tolist() != list(shape):
            raise ValueError(
                f"has a weight_shape of {stored.ravel()[:4].tolist()}, but its parts "
                f"make {list(shape)}"
            )
        words = -(-shape[1] * self.bits // WORD_BITS)
        if packed.shape[1] != words:
            raise ValueError(
                f"has {packed.shape[1]} words in a row, but {shape[1]} inputs of "
                f"{self.bits} bits need {words}"
            )

        def codes(part: slice) -> FloatArray:
            values = unpack(packed[part], bits=self.bits)[:, : shape[1]]
            return values.astype(np.float32, order="C")

        return codes

    def _whole_codes(self, weight: npt.NDArray[Any]) -> Codes:
        if self.is_float:
            return decoder(weight)
        if weight.dtype != np.int8:
            raise ValueError(f"expected values of int8, found {weight.dtype}")
        return lambda part: weight[part].astype(np.float32)

    def _scales(self, scale: npt.NDArray[Any], shape: tuple[int, int]) -> FloatArray:
        rows, columns = shape
        match self.strategy:
            case Strategy.TENSOR | Strategy.CHANNEL:
                return channel_scales(scale, rows)
            case Strategy.BLOCK:
                return block_scales(scale, shape=shape, block=self.block)
            case Strategy.GROUP:
                groups = -(-columns // self.group_size)
                if scale.shape != (rows, groups):
                    raise ValueError(
                        f"values of shape {list(shape)} in groups of "
                        f"{self.group_size} need scales of shape {[rows, groups]}, "
                        f"found {list(scale.shape)}"
                    )
                return as_float(scale)

    def _zeros(self, parts: Parts, rows: int) -> FloatArray | None:
        """Returns what is subtracted from codes; packed ones are stored unsigned."""
        shift = 1 << (self.bits - 1) if self.is_packed else 0
        zeros = parts.get("weight_zero_point")
        if zeros is None:
            return np.full((1, 1), shift, np.float32) if shift else None
        if self.is_packed and zeros.dtype == np.int32:
            groups_by_rows = unpack(zeros.T, bits=self.bits)[:, :rows]
            return groups_by_rows.T.astype(np.float32, order="C")
        if zeros.dtype != np.int8 and zeros.dtype not in FP8_TYPES:
            raise ValueError(f"has zero points of {zeros.dtype}, no integers")
        signed = zeros.astype(np.float32) + np.float32(shift)
        return signed.reshape(-1, 1) if zeros.ndim < 2 else signed

    def _groups(self, parts: Parts, columns: int) -> npt.NDArray[np.intp] | None:
        match self.strategy:
            case Strategy.TENSOR | Strategy.CHANNEL:
                return None
            case Strategy.BLOCK:
                return runs(columns, self.block[1])
            case Strategy.GROUP:
                order = parts.get("weight_g_idx")
                if order is None or (order == -1).any():  # not ordered after all
                    return runs(columns, self.group_size)
                return as_groups(order)
