"""GPTQ's weights: codes packed along the input, scales and zero points per group.

    qweight  I32 [in * bits / 32, out]
    qzeros   I32 [groups, out * bits / 32]
    scales   F16 [groups, out]
    g_idx    I32 [in]                        the group of each input, in any order

Zero points of the first format are stored one too small; `gptq_v2` stores them as they
are. (The layout is that of AutoGPTQ and GPTQModel.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.quantised.affine import (
    Affine,
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
from mell_jax.checkpoints.quantised.layout import PartNames, Shape, matrix_shape

GPTQ_BITS = (2, 4, 8)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Gptq:
    """A weight is packed along its input, [in, out]."""

    bits: int
    group_size: int | None  # columns of a group where g_idx is not stored; None: all
    has_low_zeros: bool  # zero points are stored one too small
    is_symmetric: bool  # they are all in the middle

    @property
    def part_names(self) -> PartNames:
        return PartNames(
            markers=("qweight",), required=("qzeros", "scales"), optional=("g_idx",)
        )

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        words, out = matrix_shape(shapes["qweight"])
        return out, words * WORD_BITS // self.bits

    def dequantise(
        self,
        parts: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        qweight, scales = parts["qweight"], parts["scales"]
        shape = matrix_shape(self.dense_shape({"qweight": qweight.shape}))
        zeros = unpack_zeros(
            parts["qzeros"], bits=self.bits, has_low_zeros=self.has_low_zeros
        )
        if self.is_symmetric:
            self._check_middle(zeros)

        def codes(part: slice) -> FloatArray:  # [out, in] of [in / 8, out]
            return unpack(qweight[:, part].T, bits=self.bits).astype(np.float32)

        matrix = Affine(
            shape=shape,
            codes=codes,
            scales=np.ascontiguousarray(as_float(scales).T),
            zeros=np.ascontiguousarray(zeros[:, : shape[0]].T),
            groups=self._groups(parts, shape[1]),
        )
        return dequantise(matrix, dtype=dtype, rows=rows)

    def _check_middle(self, zeros: FloatArray) -> None:
        """Refuses zero points of the other format: weights would be off by a step."""
        middle = 1 << (self.bits - 1)
        if not (zeros == middle).all():
            raise ValueError(
                f"has zero points from {zeros.min():g} to {zeros.max():g}, but sym is "
                f"true, which makes them {middle}; one of sym and checkpoint_format "
                "(gptq or gptq_v2) is wrong"
            )

    def _groups(
        self, parts: Mapping[str, npt.NDArray[Any]], columns: int
    ) -> npt.NDArray[np.intp] | None:
        size = self.group_size or columns
        count, _ = matrix_shape(parts["scales"].shape)
        expected = -(-columns // size)
        if count != expected:
            raise ValueError(
                f"has scales for {count} groups, but {columns} inputs "
                f"in groups of {size} need {expected}"
            )
        if "g_idx" not in parts:
            return runs(columns, size)
        groups = as_groups(parts["g_idx"])
        is_plain = np.array_equal(groups, np.arange(columns) // size)
        return runs(columns, size) if is_plain else groups


def unpack_zeros(
    qzeros: npt.NDArray[Any], *, bits: int, has_low_zeros: bool
) -> FloatArray:
    """Returns the zero points [groups, out] of packed ones [groups, out * bits / 32].

    Those of the first format are stored one too small. The one is added to whole words,
    as GPTQModel does, since that is also how it subtracts: a zero point of 0 borrows
    from its neighbour.

    Raises:
      ValueError: they are not 32-bit integers in two dimensions.
    """
    if qzeros.dtype == np.int32 and has_low_zeros:
        ones = sum(1 << shift for shift in range(0, WORD_BITS, bits))
        qzeros = qzeros.view(np.uint32) + np.uint32(ones)  # wraps around
    return unpack(qzeros, bits=bits).astype(np.float32)
