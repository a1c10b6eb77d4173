"""A guidance is what a guide says of one answer, as a value."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """This is how an answer may go on.

    Attributes:
        forced: tokens that come next whatever is sampled.
        mask: a bit for each token, those after `forced` that may be sampled; None at
            the end. Bit t is bit t % 32 of word t // 32.
        error: why the answer cannot go on; empty when it can, or is complete.
    """

    forced: tuple[int, ...] = ()
    mask: Mask | None = None
    error: str = ""

    @property
    def is_complete(self) -> bool:
        """Returns whether the answer is whole and nothing can follow."""
        return self.mask is None and not self.error
