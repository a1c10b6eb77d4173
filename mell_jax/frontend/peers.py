"""Peers are the other front ends of a server, as one of them sees them."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from mell_jax.frontend.share import Counted, Held


class Peers(Protocol):
    """Belongs to the event loop; only what is awaited takes time."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Ends requests that are not open here and may be elsewhere."""

    def claim(self, request_id: str) -> asyncio.Future[bool] | None:
        """Asks for an id; False is the answer while another front end has it.

        None where nobody has to be asked. `release` it either way.
        """

    def release(self, request_id: str) -> None:
        """Gives an id back; one of another front end stays as it is."""

    def grow(self, part: Held) -> None:
        """Tells that much more is inside here than was told.

        Args:
            part: with the tenants for whom it is.
        """

    async def count(self, own: Counted) -> Counted:
        """Returns what the others have counted, those that are gone included.

        Args:
            own: what this one has; from now on nobody is told less.
        """
