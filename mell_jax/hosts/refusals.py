"""Whoever connects and gets no link is told of in the log, at a bounded rate."""

import time
from collections.abc import Callable
from typing import final

from mell_jax.events import Event, tell

PERIOD_S = 1.0


@final
class Refusals:
    """The refusals are those of one address.

    Args:
      clock: seconds, never backwards.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_s = clock()
        self._left_out = 0

    def tell(self, peer: object, *, error: BaseException) -> None:
        """Says once a second who was refused, and how many more were.

        Args:
          peer: where it connects from, as sockets have it; None: nobody knows.
          error: why it is refused.
        """
        now_s = self._clock()
        if now_s < self._next_s:
            self._left_out += 1
            return
        more = f"; {self._left_out} more before" if self._left_out else ""
        reason = str(error) or type(error).__name__
        address = _written(peer)
        tell(
            Event.LINK_REFUSED,
            text=f"a connection from {address} is refused: {reason}{more}",
            address=address,
            reason=reason,
        )
        self._next_s, self._left_out = now_s + PERIOD_S, 0


def _written(peer: object) -> str:
    match peer:
        case (str() as host, int() as port, *_):
            return f"{host}:{port}"
        case _:
            return "somebody"
