"""Other front ends that a test holds in its hands."""

from collections.abc import Sequence

from mell_jax.frontend.share import Counted, Held


class FakePeers:
    """Remembers what it is asked and answers at once."""

    def __init__(self, *, counted: Counted | None = None) -> None:
        self.aborted: list[str] = []
        self.told: list[Counted] = []
        self.grown: list[Held] = []
        self._counted = counted or Counted()

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids

    def grow(self, part: Held) -> None:
        self.grown.append(part)

    async def count(self, own: Counted) -> Counted:
        self.told.append(own)
        return self._counted
