"""Names of things, so that one kind of integer is not taken for another."""

from typing import NewType

import numpy as np
import numpy.typing as npt

PageId = NewType("PageId", int)
SlotId = NewType("SlotId", int)
"""A row of the running batch: index into every per-request array."""
Serial = NewType("Serial", int)
"""Names one sequence for as long as the engine knows it; never used twice."""
PageKey = NewType("PageKey", bytes)
"""Digest of a salt and all tokens up to and including one page."""

Pages = npt.NDArray[np.int32]
Tokens = npt.NDArray[np.int32]
