"""Turns at something of which there are few: whoever holds fewest has the next one.

    2 in all:  "a" holds 2 and waits [x x x]   "b" comes, and has what is free next

A tenant that is alone may have them all. One event loop calls it.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from typing import final


@final
class Turns:
    """Hands out turns to tenants.

    Args:
      count: how many may have a turn at a time.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held = Counter[str]()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, tenant: str) -> None:
        """Waits for a turn; give it back."""
        if self._free:
            self._free -= 1
            self._held[tenant] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(tenant, turn)
            else:  # it came at the same time
                self.give_back(tenant)
            raise

    def give_back(self, tenant: str) -> None:
        """Gives a tenant's turn to the one that holds fewest, or waits longest."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        if not self._waiting:
            self._free += 1
            return
        name = min(self._waiting, key=self._held.__getitem__)
        turn = self._waiting[name][0]
        self._waiting.move_to_end(name)
        self._leave(name, turn)
        self._held[name] += 1
        turn.set_result(None)

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        lane = self._waiting[tenant]
        lane.remove(turn)
        if not lane:
            del self._waiting[tenant]
