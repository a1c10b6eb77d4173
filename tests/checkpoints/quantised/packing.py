"""Quantises small matrices into the published layouts, by means of its own.

Words are filled value by value in Python integers, as the formats are described, so
that nothing here shares an idea with the code that reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A matrix as whole numbers: about (codes - zeros) * scales of its groups."""

    codes: np.ndarray  # int [out, in], from 0
    scales: np.ndarray  # float16 [out, groups]
    zeros: np.ndarray  # int [out, groups]


def rounded(
    dense: np.ndarray,
    *,
    bits: int,
    group: int,
    is_symmetric: bool,
    order: np.ndarray | None = None,
) -> Rounded:
    """Each group of columns in `bits` bits; `order` [in] names the group of each."""
    top = (1 << bits) - 1
    order = np.arange(dense.shape[1]) // group if order is None else order
    codes = np.zeros(dense.shape, np.int64)
    scales, zeros = [], []
    for number in range(order.max() + 1):
        part = dense[:, order == number]
        if is_symmetric:
            zero = np.full(len(part), (top + 1) // 2)
            step = np.abs(part).max(1) * 2 / top
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            step = (high - low) / top
            zero = None
        step = np.maximum(step, 1e-4).astype(np.float16)
        if zero is None:
            zero = np.clip(np.round(-low / step.astype(np.float64)), 0, top)
        values = np.round(part / step.astype(np.float64)[:, None]) + zero[:, None]
        codes[:, order == number] = np.clip(values, 0, top)
        scales.append(step)
        zeros.append(zero)
    return Rounded(
        codes=codes,
        scales=np.stack(scales, 1),
        zeros=np.stack(zeros, 1).astype(np.int64),
    )


def words(values: np.ndarray, *, bits: int, places: Sequence[int] = ()) -> np.ndarray:
    """Rows of small values as 32-bit words; `places` reorders the values of a word."""
    count = 32 // bits
    places = places or range(count)
    packed = []
    for row in values.tolist():
        padded = row + [0] * (-len(row) % count)
        starts = range(0, len(row), count)
        packed.append([_word(padded[i : i + count], bits, places) for i in starts])
    return np.array(packed, np.uint32).view(np.int32)


def _word(values: Sequence[int], bits: int, places: Sequence[int]) -> int:
    return sum(values[place] << (bits * at) for at, place in enumerate(places))


def gptq(
    dense: np.ndarray,
    *,
    bits: int,
    group: int,
    is_symmetric: bool,
    is_v2: bool = False,
    order: np.ndarray | None = None,
) -> Arrays:
    made = rounded(
        dense, bits=bits, group=group, is_symmetric=is_symmetric, order=order
    )
    plain = np.arange(dense.shape[1]) // group
    ones = 0 if is_v2 else sum(1 << at for at in range(0, 32, bits))
    zeros = words(made.zeros.T, bits=bits).view(np.uint32).astype(np.int64) - ones
    return {
        "qweight": words(made.codes, bits=bits).T.copy(),
        "qzeros": (zeros % (1 << 32)).astype(np.uint32).view(np.int32),
        "scales": made.scales.T.copy(),
        "g_idx": (plain if order is None else order).astype(np.int32),
    }


def awq(dense: np.ndarray, *, group: int) -> Arrays:
    made = rounded(dense, bits=4, group=group, is_symmetric=False)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": words(made.codes.T, bits=4, places=order),
        "qzeros": words(made.zeros.T, bits=4, places=order),
        "scales": made.scales.T.copy(),
    }


def fp8_blocks(dense: np.ndarray, *, block: tuple[int, int]) -> Arrays:
    """A scale for each block, as DeepSeek and Qwen publish."""
    rows, columns = dense.shape
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    scale = np.zeros(grid, np.float32)
    values = np.zeros(dense.shape, FP8)
    for i in range(grid[0]):
        for j in range(grid[1]):
            at = (
                slice(i * block[0], (i + 1) * block[0]),
                slice(j * block[1], (j + 1) * block[1]),
            )
            scale[i, j] = np.abs(dense[at]).max() / 448
            values[at] = (dense[at] / scale[i, j]).astype(FP8)
    return {"weight": values, "weight_scale_inv": scale}


def fp8_channels(dense: np.ndarray) -> Arrays:
    scale = (np.abs(dense).max(1, keepdims=True) / 448).astype(np.float32)
    return {"weight": (dense / scale).astype(FP8), "weight_scale": scale}


def fp8_tensor(dense: np.ndarray) -> Arrays:
    scale = np.float32(np.abs(dense).max() / 448)
    return {
        "weight": (dense / scale).astype(FP8),
        "weight_scale": np.array(scale),
        "input_scale": np.array(1.0, np.float32),
    }


def compressed_whole(dense: np.ndarray, *, group: int, is_symmetric: bool) -> Arrays:
    """Eight bits each, signed."""
    made = rounded(dense, bits=8, group=group, is_symmetric=is_symmetric)
    arrays = {
        "weight": (made.codes - 128).astype(np.int8),
        "weight_scale": made.scales.astype(ml_dtypes.bfloat16),
    }
    if not is_symmetric:
        arrays["weight_zero_point"] = (made.zeros - 128).astype(np.int8)
    return arrays


def compressed_packed(
    dense: np.ndarray, *, bits: int, group: int, is_symmetric: bool
) -> Arrays:
    made = rounded(dense, bits=bits, group=group, is_symmetric=is_symmetric)
    arrays = {
        "weight_packed": words(made.codes, bits=bits),
        "weight_scale": made.scales,
        "weight_shape": np.array(dense.shape, np.int64),
    }
    if not is_symmetric:
        arrays["weight_zero_point"] = words(made.zeros.T, bits=bits).T.copy()
    return arrays
