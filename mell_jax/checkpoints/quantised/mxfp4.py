"""MXFP4 weights as GPT-OSS stores its experts: 4-bit floats, a scale for each 32.

    gate_up_proj_blocks  U8 [experts, out, groups, 16]   two values to a byte, low first
    gate_up_proj_scales  U8 [experts, out, groups]       2 to the (byte - 127)

The dense weight is `gate_up_proj` [experts, in, out]. (OCP Microscaling Formats 1.0.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.quantised.affine import Affine, FloatArray, dequantise
from mell_jax.checkpoints.quantised.codes import as_float, unpack_bytes
from mell_jax.checkpoints.quantised.layout import PartNames, Shape

FP4_VALUES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
FP4_TABLE = np.concatenate([FP4_VALUES, -FP4_VALUES])
BLOCK_BYTES = 16
BLOCK_VALUES = 32


def dequantise_blocks(
    blocks: npt.NDArray[Any],
    scales: npt.NDArray[Any],
    *,
    dtype: npt.DTypeLike = np.float32,
    rows: slice | None = None,
) -> npt.NDArray[Any]:
    """Returns the values of `blocks` [..., groups, 16] times the powers of two that
    `scales` [..., groups] name, as [..., groups * 32].

    Args:
      blocks: bytes of two values each.
      scales: a byte for each block.
      dtype: of the result.
      rows: entries of the first axis to return; None for all.

    Raises:
      ValueError: the shapes or types do not fit.
    """
    if blocks.dtype != np.uint8 or scales.dtype != np.uint8:
        raise ValueError(
            f"expected blocks and scales of bytes, found {blocks.dtype} and "
            f"{scales.dtype}"
        )
    if scales.shape != _rows_and_groups(blocks.shape):
        raise ValueError(
            f"has blocks of shape {list(blocks.shape)}, but scales of shape "
            f"{list(scales.shape)}"
        )
    if rows is not None:
        blocks, scales = blocks[rows], scales[rows]
    groups = scales.shape[-1]
    flat = blocks.reshape(-1, groups * BLOCK_BYTES)

    def codes(part: slice) -> FloatArray:
        return np.take(FP4_TABLE, unpack_bytes(flat[part], bits=4), mode="clip")

    matrix = Affine(
        shape=(len(flat), groups * BLOCK_VALUES),
        codes=codes,
        scales=as_float(scales).reshape(-1, groups),
    )
    return dequantise(matrix, dtype=dtype).reshape(*scales.shape[:-1], -1)


def _rows_and_groups(shape: Shape) -> Shape:
    if len(shape) < 3 or shape[-1] != BLOCK_BYTES or 0 in shape:
        raise ValueError(
            f"expected blocks of {BLOCK_BYTES} bytes, found the shape {list(shape)}"
        )
    return shape[:-1]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mxfp4:
    """The experts' weights of a layer are one, stored [experts, out, in]."""

    @property
    def part_names(self) -> PartNames:
        return PartNames(markers=("_blocks",), required=("_scales",), replaced="")

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        *experts, out, groups = _rows_and_groups(shapes["_blocks"])
        return (*experts, groups * BLOCK_VALUES, out)

    def dequantise(
        self,
        parts: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        blocks, scales = parts["_blocks"], parts["_scales"]
        values = dequantise_blocks(blocks, scales, dtype=dtype, rows=rows)
        return values.swapaxes(-1, -2)  # a view
