"""AWQ's weights (the GEMM version): eight outputs to a word, in an order of their own.

    qweight  I32 [in, out / 8]
    qzeros   I32 [groups, out / 8]
    scales   F16 [groups, out]

A word holds the outputs 0 2 4 6 1 3 5 7, the first in its lowest bits.
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
from mell_jax.checkpoints.quantised.codes import as_float, unpack
from mell_jax.checkpoints.quantised.layout import PartNames, Shape, matrix_shape

AWQ_BITS = 4
PER_WORD = 8
PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in its word each of eight outputs is."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Awq:
    """A weight is packed along its output, [in, out]."""

    group_size: int | None  # None: all inputs

    @property
    def part_names(self) -> PartNames:
        return PartNames(markers=("qweight",), required=("qzeros", "scales"))

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        columns, words = matrix_shape(shapes["qweight"])
        return words * PER_WORD, columns

    def dequantise(
        self,
        parts: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        qweight, scales = parts["qweight"], parts["scales"]
        shape = matrix_shape(self.dense_shape({"qweight": qweight.shape}))
        columns = shape[1]
        size = self.group_size or columns
        count, _ = matrix_shape(scales.shape)
        if columns % size or count != columns // size:
            raise ValueError(
                f"has scales for {count} groups, but {columns} inputs in groups "
                f"of {size} need {columns / size:g}"
            )

        def codes(part: slice) -> FloatArray:
            first, stop = part.start // PER_WORD, -(-part.stop // PER_WORD)
            values = unpack_outputs(qweight[:, first:stop]).T
            start = part.start - first * PER_WORD  # inside the first word
            values = values[start : start + part.stop - part.start]
            return values.astype(np.float32, order="C")

        matrix = Affine(
            shape=shape,
            codes=codes,
            scales=np.ascontiguousarray(as_float(scales).T),
            zeros=unpack_outputs(parts["qzeros"]).T.astype(np.float32, order="C"),
            groups=runs(columns, size),
        )
        return dequantise(matrix, dtype=dtype, rows=rows)


def unpack_outputs(words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns the values of packed words [rows, out / 8] as uint8 [rows, out], in the
    order of the outputs.

    Raises:
      ValueError: they are not 32-bit integers in two dimensions.
    """
    values = unpack(words, bits=AWQ_BITS)
    ordered = values.reshape(len(values), -1, PER_WORD)[:, :, PLACES]
    return ordered.reshape(values.shape)
