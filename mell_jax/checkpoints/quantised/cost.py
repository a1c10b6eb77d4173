"""Says what it costs that quantised weights are served dense."""

import numpy as np
import numpy.typing as npt

UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def cost_line(
    method: str, *, stored_bytes: int, dense_bytes: int, dtype: npt.DTypeLike
) -> str:
    """Returns one line: what quantised weights become in memory.

    >>> cost_line("fp8", stored_bytes=4_200_000_000, dense_bytes=8_400_000_000,
    ...           dtype=np.float16)
    '4.2 GB of fp8 are dequantised on load: 8.4 GB of float16, 2.0 times as much'
    """
    assert stored_bytes > 0, stored_bytes
    return (
        f"{_bytes(stored_bytes)} of {method} are dequantised on load: "
        f"{_bytes(dense_bytes)} of {np.dtype(dtype)}, "
        f"{dense_bytes / stored_bytes:.1f} times as much"
    )


def _bytes(count: int) -> str:
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
