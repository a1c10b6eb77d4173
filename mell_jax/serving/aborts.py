"""An operator's order to end requests reaches the front ends that have them."""

from collections.abc import Callable, Sequence
from typing import final

Hear = Callable[[Sequence[str]], object]


@final
class Aborts:
    """Passes on ids of requests, from any thread; to nobody before the service."""

    def __init__(self) -> None:
        self._hear: Hear = _unheard

    def listen(self, hear: Hear) -> None:
        """Has `hear` called with ids from now on, on the threads of who orders."""
        self._hear = hear

    def leave(self) -> None:
        """Passes on nothing from now on."""
        self._hear = _unheard

    def order(self, request_ids: Sequence[str]) -> None:
        """Ends these requests as far as they are there; each finishes with "abort"."""
        self._hear(request_ids)


def _unheard(request_ids: Sequence[str]) -> None:
    """Takes ids while no front end has any request."""
