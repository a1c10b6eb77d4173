"""FP8 weights with scales: per block, per output channel or per tensor.

    weight            F8_E4M3 [out, in]
    weight_scale_inv  F32     [out / 128, in / 128]    DeepSeek, Qwen3-*-FP8
    weight_scale      F32     [out, 1], [1] or []      vLLM, ModelOpt, FBGEMM

Either name is multiplied with: `inv` tells of how it was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.quantised.affine import (
    Affine,
    Codes,
    FloatArray,
    dequantise,
    runs,
)
from mell_jax.checkpoints.quantised.codes import as_float
from mell_jax.checkpoints.quantised.layout import PartNames, Shape, matrix_shape

FP8_TYPES = tuple(np.dtype(kind) for kind in (jnp.float8_e4m3fn, jnp.float8_e5m2))


def dequantise_blocks(
    values: npt.NDArray[Any],
    scale_inv: npt.NDArray[Any],
    *,
    block: tuple[int, int] = (128, 128),
    dtype: npt.DTypeLike = np.float32,
    rows: slice | None = None,
) -> npt.NDArray[Any]:
    """Returns float8 `values` [out, in] times the scale of their block.

    Args:
      values: float8_e4m3fn or float8_e5m2.
      scale_inv: a scale per block, [ceil(out / block), ceil(in / block)].
      block: rows and columns of a block; those at the edges may be cut.
      dtype: of the result.
      rows: which to return; None for all.

    Raises:
      ValueError: the shapes or types do not fit.
    """
    shape = matrix_shape(values.shape)
    matrix = Affine(
        shape=shape,
        codes=decoder(values),
        scales=block_scales(scale_inv, shape=shape, block=block),
        groups=runs(shape[1], block[1]),
    )
    return dequantise(matrix, dtype=dtype, rows=rows)


def dequantise_channels(
    values: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    *,
    dtype: npt.DTypeLike = np.float32,
    rows: slice | None = None,
) -> npt.NDArray[Any]:
    """Returns float8 `values` [out, in] times one scale, or one per row.

    Args:
      values: float8_e4m3fn or float8_e5m2.
      scale: of one value, or of shape [out] or [out, 1].
      dtype: of the result.
      rows: which to return; None for all.

    Raises:
      ValueError: the shapes or types do not fit.
    """
    shape = matrix_shape(values.shape)
    matrix = Affine(
        shape=shape,
        codes=decoder(values),
        scales=channel_scales(scale, shape[0]),
    )
    return dequantise(matrix, dtype=dtype, rows=rows)


def block_scales(
    scale: npt.NDArray[Any], *, shape: tuple[int, int], block: tuple[int, int]
) -> FloatArray:
    """Returns the scales of blocks as scales of rows, [out, ceil(in / block)].

    Raises:
      ValueError: there are other numbers of scales than of blocks in `shape`.
    """
    expected = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    if scale.shape != expected:
        raise ValueError(
            f"values of shape {list(shape)} in blocks of {list(block)} need scales of "
            f"shape {list(expected)}, found {list(scale.shape)}"
        )
    height = min(block[0], shape[0])  # a file may say anything
    return np.repeat(as_float(scale), height, axis=0)[: shape[0]]


def channel_scales(scale: npt.NDArray[Any], rows: int) -> FloatArray:
    """Returns one scale or one per row as [1, 1] or [out, 1].

    Raises:
      ValueError: there are other numbers of scales.
    """
    if prod(scale.shape) == 1:
        return as_float(scale).reshape(1, 1)
    if scale.shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"expected one scale or one for each of {rows} rows, found the shape "
            f"{list(scale.shape)}"
        )
    return as_float(scale).reshape(rows, 1)


def decoder(values: npt.NDArray[Any]) -> Codes:
    """Returns a function from rows of float8 `values` to float32.

    Raises:
      ValueError: they are not float8.
    """
    if values.dtype not in FP8_TYPES:
        raise ValueError(f"expected values of float8, found {values.dtype}")
    # Four times as fast as a cast: there are only 256 values.
    table = np.arange(256, dtype=np.uint8).view(values.dtype).astype(np.float32)
    octets = values.view(np.uint8)
    return lambda rows: np.take(table, octets[rows], mode="clip")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8:
    """A weight is one float8 tensor with its scales beside it."""

    block: tuple[int, int] | None = None  # rows and columns; None: rows or tensors

    @property
    def part_names(self) -> PartNames:
        return PartNames(
            markers=("weight_scale_inv", "weight_scale"), required=("weight",)
        )

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return shapes["weight"]

    def dequantise(
        self,
        parts: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        scale = parts.get("weight_scale_inv", parts.get("weight_scale"))
        assert scale is not None, "a part is found by its marker"
        if self.block is None:
            return dequantise_channels(parts["weight"], scale, dtype=dtype, rows=rows)
        return dequantise_blocks(
            parts["weight"], scale, block=self.block, dtype=dtype, rows=rows
        )
