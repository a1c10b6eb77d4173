"""Knows how ggml packs numbers into blocks; the one place that uses the package `gguf`.

Q4_1   32 values to a block of 20 bytes: a factor, a minimum, 32 half bytes
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """A format says how many values so many bytes hold."""

    number: int  # ggml's
    name: str  # "Q4_1"
    values: int
    size_bytes: int

    def dequantise(self, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns the values of whole blocks, [..., bytes] -> [..., values]."""
        package = _package()
        kind = package.GGMLQuantizationType(self.number)
        with np.errstate(all="ignore"):  # NaN and infinity in a file stay what they are
            values = package.quants.dequantize(blocks, kind)
        return np.asarray(values, np.float32)


def block_format(number: int, *, where: str) -> BlockFormat:
    """Returns the format that ggml gives a number.

    Raises:
      CheckpointError: it is not known, holds no weights, or the package is missing.
    """
    package = _package()
    try:
        kind = package.GGMLQuantizationType(number)
    except ValueError as error:
        raise CheckpointError(
            f"{where} has the type {number}, which the package gguf does not know; "
            "install a newer one"
        ) from error
    values, size_bytes = package.GGML_QUANT_SIZES[kind]
    found = BlockFormat(
        number=number, name=kind.name, values=values, size_bytes=size_bytes
    )
    try:
        found.dequantise(np.zeros((1, size_bytes), np.uint8))
    except NotImplementedError as error:
        raise CheckpointError(
            f"{where} has the type {found.name}, which cannot be dequantised; take "
            "another quantisation of the model, such as Q8_0 or Q4_K_M"
        ) from error
    return found


def _package() -> ModuleType:
    try:
        import gguf  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise CheckpointError(
            "GGUF files are read with the package gguf, which is not installed: pip "
            "install 'mell_jax[gguf]'"
        ) from error
    return gguf
