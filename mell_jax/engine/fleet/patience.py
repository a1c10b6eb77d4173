"""Patience is how long a device may take for a result while others go on.

on its way --LATE_S--> late, said once --stall_s after it was looked for--> given up
    '-- comes              '-- comes: forgotten
"""

from collections.abc import Collection
from typing import final

LATE_S = 1.0
"""A step is shorter, unless all are slow."""


class StalledError(RuntimeError):
    """A device gives no result; it is taken for dead."""


@final
class Patience:
    """Patience knows what is waited for; `stall_s` until an instance is given up."""

    def __init__(self, *, stall_s: float) -> None:
        self._stall_s = stall_s
        self._since_s: dict[object, float] = {}  # of those whose result was not here
        self._late: set[object] = set()

    @property
    def is_tried(self) -> bool:
        """Returns whether an instance is late."""
        return bool(self._late)

    def forget_others(self, instances: Collection[object]) -> None:
        """Forgets all but these, which are the ones that there are."""
        self._since_s = {k: v for k, v in self._since_s.items() if k in instances}
        self._late = {one for one in self._late if one in instances}

    def forget(self, instance: object) -> None:
        """The instance's result has come."""
        self._since_s.pop(instance, None)
        self._late.discard(instance)

    def look(self, instance: object, *, now_s: float) -> bool:
        """Notes that a result is not here; returns whether this makes it late.

        Raises:
          StalledError: it has not been here for too long.
        """
        since_s = self._since_s.setdefault(instance, now_s)
        self.check(since_s, now_s=now_s)
        if instance in self._late or now_s - since_s < LATE_S:
            return False
        self._late.add(instance)
        return True

    def check(self, since_s: float, *, now_s: float) -> None:
        """Checks that what a device was asked for at `since_s` may yet come.

        Raises:
          StalledError: it has taken too long.
        """
        if now_s - since_s >= self._stall_s:
            raise StalledError(f"no result has come for {now_s - since_s:.0f} s")
