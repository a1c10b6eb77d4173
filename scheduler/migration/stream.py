"""A stream gives the client every token once, in order, from the owner alone.

    frame (copy 7, start 3, [a b c])   stream has 4 tokens   ->   takes b, c

A frame of a copy that does not own the request is refused; one that leaves a gap is
taken when it is sent again. It holds no tokens, only their number.
"""

from collections.abc import Sequence

from mell_jax.scheduler.ids import CopyId


class TokenStream:
    """A token stream counts the generated tokens of one request."""

    __slots__ = ("copy_id", "count")

    def __init__(self) -> None:
        self.copy_id = CopyId(-1)  # of the copy whose tokens are taken
        self.count = 0

    def fence(self, copy_id: CopyId) -> None:
        """Takes tokens of `copy_id` alone from now on."""
        assert copy_id >= self.copy_id, f"copy_id {copy_id} after {self.copy_id}"
        self.copy_id = copy_id

    def accept(
        self, copy_id: CopyId, *, start: int, tokens: Sequence[int]
    ) -> list[int]:
        """Returns those of `tokens` (at index `start` and on) that are new and next."""
        if copy_id != self.copy_id or start > self.count:
            return []
        new = list(tokens[self.count - start :])
        self.count += len(new)
        return new
