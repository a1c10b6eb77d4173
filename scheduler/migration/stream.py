"""What the client has got: every token once, in order, from the owner alone.

    frame (epoch 7, start 3, [a b c])   stream has 4 tokens   ->   takes b, c

A frame of another epoch is a voice from the past; one that leaves a gap is taken when
it is sent again. It holds no tokens, only their number.
"""

from collections.abc import Sequence

from mell_jax.scheduler.ids import Epoch


class TokenStream:
    """The generated tokens of one request, by epoch and index."""

    __slots__ = ("count", "epoch")

    def __init__(self) -> None:
        self.epoch = Epoch(-1)  # of the copy whose tokens are taken
        self.count = 0

    def fence(self, epoch: Epoch) -> None:
        """Takes tokens of `epoch` alone from now on."""
        assert epoch >= self.epoch, f"epoch {epoch} after {self.epoch}"
        self.epoch = epoch

    def accept(self, epoch: Epoch, *, start: int, tokens: Sequence[int]) -> list[int]:
        """Those of `tokens` (at index `start` and on) that are new and next."""
        if epoch != self.epoch or start > self.count:
            return []
        new = list(tokens[self.count - start :])
        self.count += len(new)
        return new
