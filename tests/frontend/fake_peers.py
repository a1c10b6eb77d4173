"""Other front ends that a test holds in its hands."""

import asyncio
from collections.abc import Sequence

from mell_jax.frontend.share import Counted, Held


class FakePeers:
    """Remembers what it is asked and answers at once."""

    def __init__(self, *, counted: Counted | None = None) -> None:
        self.aborted: list[str] = []
        self.told: list[Counted] = []
        self.grown: list[Held] = []
        self.claims: dict[str, asyncio.Future[bool]] = {}  # for the test to answer
        self.released: list[str] = []
        self._counted = counted or Counted()

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids

    def claim(self, request_id: str) -> asyncio.Future[bool]:
        self.claims[request_id] = asyncio.get_running_loop().create_future()
        return self.claims[request_id]

    def release(self, request_id: str) -> None:
        self.released.append(request_id)

    def grow(self, part: Held) -> None:
        self.grown.append(part)

    async def count(self, own: Counted) -> Counted:
        self.told.append(own)
        return self._counted
