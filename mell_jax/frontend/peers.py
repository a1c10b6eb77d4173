"""The other front ends of a server, as one of them sees them."""

from collections.abc import Sequence
from typing import Protocol

from mell_jax.frontend.share import Counted, Held


class Peers(Protocol):
    """Belongs to the event loop; only what is awaited takes time."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Ends requests that are not open here and may be elsewhere."""

    def grow(self, part: Held) -> None:
        """Tells that much more is inside here than was told.

        Args:
            part: with the tenants for whom it is.
        """

    async def count(self, own: Counted) -> Counted:
        """What the others have counted, those that are gone included.

        Args:
            own: what this one has; from now on nobody is told less.
        """
