"""A composition says what computes together: decodes and prefill, or one alone.

    compiled for 64 and 512 tokens; 63 decode, 13 are to be prefilled
    together 512        apart 64 and then 64: two short steps instead of a long one

A step is padded to a size that was compiled, so a few tokens of a prompt beside many
decodes may cost more than in a step of their own. The first token of a tenant with less
than its part goes alone, too: it pays for nobody else's rows. Neither decodes nor
prefill stand back twice in a row.
"""

from enum import Enum
from typing import final

STEP_TOKENS = 256
"""What a step costs whatever its size, in tokens that could be computed meanwhile."""

URGENT_STEPS = 200
"""So many steps after a first token that was owed, another one is expected."""


class Part(Enum):
    """The part of what a step could compute that it does compute."""

    ALL = "decodes and prefill"
    DECODES = "decodes; prefill waits for the next step"
    PREFILL = "prefill; decodes wait for the next step"
    URGENT = "the first tokens of those that are owed more; all others wait"


@final
class Composition:
    """The composition of steps remembers who stood back last.

    Args:
      sizes: tokens that steps with prefill are compiled for, rising; without any,
        everything computes together.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._stood_back = False  # the decodes, in the latest step
        self._calm_steps = URGENT_STEPS  # since a first token was owed

    @property
    def is_urgent(self) -> bool:
        """Returns whether a first token was owed lately, so that more are expected."""
        return self._calm_steps < URGENT_STEPS

    def choose(
        self, *, decodes: int, prefill: int, prompts: int = 1, urgent: int = 0
    ) -> Part:
        """Returns what the next step computes.

        Args:
          decodes: rows that would compute a token each.
          prefill: tokens of prompts.
          prompts: rows that these are of; a token of each is as good as a decode.
          urgent: tokens of `prefill` that end prompts of tenants with less than their
            part; 0 for none.
        """
        stood_back, self._stood_back = self._stood_back, False
        self._calm_steps = 0 if urgent else self._calm_steps + 1
        if not (decodes and prefill and self._sizes):
            return Part.ALL
        if urgent and not stood_back and urgent <= self._sizes[0]:
            self._stood_back = True
            return Part.URGENT
        if prefill == prompts:
            return Part.ALL  # all rows compute one token: no step with prefill
        apart = self._padded(prefill) + decodes + STEP_TOKENS
        if self._padded(prefill + decodes) <= apart:
            return Part.ALL
        if stood_back:
            return Part.DECODES
        self._stood_back = True
        return Part.PREFILL

    def _padded(self, tokens: int) -> int:
        return next((size for size in self._sizes if size >= tokens), tokens)
