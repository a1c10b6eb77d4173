"""Reads packed tensors by offset and dequantises them, a slab of rows at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.model import PackedTensor
from mell_jax.checkpoints.safetensors_file import allocate

SLAB_VALUES = 1 << 19
"""What is dequantised at once: 2 MiB of float32, and as much again in between."""


def read_packed(packed: PackedTensor, *, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns the values of a tensor in host memory of their own.

    They are computed in float32 and rounded once.

    Raises:
      CheckpointError: the file has become shorter, or a value does not fit `dtype`.
    """
    kind, wanted = packed.format, np.dtype(dtype)
    total = int(np.prod(packed.shape))
    out = allocate(total, wanted)
    step = max(SLAB_VALUES // kind.values, 1)  # blocks
    try:
        with packed.tensor.path.open("rb") as file:
            file.seek(packed.tensor.start_byte)
            for start in range(0, total // kind.values, step):
                count = min(step, total // kind.values - start)
                data = file.read(count * kind.size_bytes)
                if len(data) < count * kind.size_bytes:
                    raise CheckpointError(f"{packed}: the file ends inside it")
                blocks = np.frombuffer(data, np.uint8).reshape(1, -1)
                part = out[start * kind.values : (start + count) * kind.values]
                _round_into(part, kind.dequantise(blocks).reshape(-1), packed)
    except OSError as error:
        raise CheckpointError(f"{packed} cannot be read: {error}") from error
    return out.reshape(packed.shape)


def _round_into(
    target: npt.NDArray[Any], values: npt.NDArray[np.float32], packed: PackedTensor
) -> None:
    try:
        with np.errstate(over="raise", invalid="ignore"):
            np.copyto(target, values, casting="unsafe")
    except FloatingPointError as error:
        raise CheckpointError(
            f"{packed} has values too large for {target.dtype}; load it as bfloat16"
        ) from error
