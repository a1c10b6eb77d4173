"""Dequantises matrices whose values are (code - zero) * scale, some rows at a time.

    codes   [out, in]      whole numbers or 8-bit floats, unpacked rows by rows
    scales  [out, groups]  a group is a run of columns, or those that `groups` names
    zeros   [out, groups]  or none

Every format here comes down to this. It is computed in float32 and rounded once, and
needs a few megabytes besides the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.safetensors_file import allocate

SLAB_VALUES = 1 << 19
"""What is dequantised at once: 2 MiB of float32, which a cache holds."""

FloatArray = npt.NDArray[np.float32]
Codes = Callable[[slice], FloatArray]
"""Unpacks some rows of a matrix into an array of their own, float32 [rows, in]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A quantised matrix is described by this, whatever its format.

    Raises:
      ValueError: the shapes do not fit together.
    """

    shape: tuple[int, int]  # [out, in]
    codes: Codes
    scales: FloatArray  # [out, groups], or [1, groups] for all rows
    zeros: FloatArray | None = None  # as scales
    groups: npt.NDArray[np.intp] | None = None  # [in]; None where they are equal runs

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if not (rows > 0 and columns > 0):
            raise ValueError(f"a matrix of shape {list(self.shape)} has no values")
        if self.scales.ndim != 2 or self.scales.shape[0] not in (1, rows):
            raise ValueError(
                f"scales of shape {list(self.scales.shape)} do not fit {rows} rows"
            )
        if self.zeros is not None and self.zeros.shape != self.scales.shape:
            raise ValueError(
                f"zero points of shape {list(self.zeros.shape)} do not fit scales of "
                f"shape {list(self.scales.shape)}"
            )
        self._check_groups(columns, self.scales.shape[1])

    def _check_groups(self, columns: int, count: int) -> None:
        if self.groups is None:
            if not (count > 0 and columns % count == 0):
                raise ValueError(f"{columns} columns are not {count} equal groups")
        elif self.groups.shape != (columns,):
            raise ValueError(
                f"groups of shape {list(self.groups.shape)} do not fit {columns} "
                "columns"
            )
        elif not (self.groups.min() >= 0 and self.groups.max() < count):
            raise ValueError(
                f"groups from {self.groups.min()} to {self.groups.max()} are outside "
                f"the {count} that have scales"
            )


def dequantise(
    matrix: Affine, *, dtype: npt.DTypeLike, rows: slice | None = None
) -> npt.NDArray[Any]:
    """Returns the values of `matrix`, or of some rows, as `dtype` [rows, in].

    Raises:
      ValueError: a value is too large for `dtype`.
    """
    count, columns = matrix.shape
    first, stop, _ = (rows or slice(None)).indices(count)
    out = allocate((stop - first) * columns, np.dtype(dtype)).reshape(-1, columns)
    step = max(1, SLAB_VALUES // columns)
    for start in range(first, stop, step):
        part = slice(start, min(start + step, stop))
        target = out[start - first : part.stop - first]
        try:
            # NaN and infinity in a file stay what they are, as in plain weights.
            with np.errstate(over="raise", invalid="ignore"):
                np.copyto(target, _values(matrix, part), casting="unsafe")
        except FloatingPointError as error:
            way_out = "; load it as bfloat16" if out.dtype == np.float16 else ""
            raise ValueError(
                f"has values too large for {out.dtype}{way_out}"
            ) from error
    return out


def runs(columns: int, size: int) -> npt.NDArray[np.intp] | None:
    """Returns the group of each of `columns` columns in runs of `size`, the last of
    which may be shorter; None where all are equal.

    >>> runs(5, 2)
    array([0, 0, 1, 1, 2])
    """
    return None if columns % size == 0 else np.arange(columns, dtype=np.intp) // size


def _values(matrix: Affine, part: slice) -> FloatArray:
    values = matrix.codes(part)
    scales = _rows(matrix.scales, part)
    zeros = None if matrix.zeros is None else _rows(matrix.zeros, part)
    if matrix.groups is None:  # one broadcast per run of columns
        grouped = values.reshape(len(values), scales.shape[1], -1)
        if zeros is not None:
            grouped -= zeros[:, :, None]
        grouped *= scales[:, :, None]
        return grouped.reshape(values.shape)
    if zeros is not None:
        values -= zeros[:, matrix.groups]
    values *= scales[:, matrix.groups]
    return values


def _rows(array: FloatArray, part: slice) -> FloatArray:
    return array if len(array) == 1 else array[part]
