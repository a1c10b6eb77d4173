"""The number of hosts follows what the controller says that the fleet needs.

    all groups of a host parked for idle_s      -> its node is given back
    requests wait more than not, no group idle  -> one more host
    a host is lost                              -> another one, if any still waits

It is pure: it knows no clock and no Ray. `Keeper` asks it, once a look.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import final

from mell_jax.scheduler.hosts.need import Need

SHORT_S = 2.0
"""Requests have waited for so much longer than not before they bring a node.

Groups open and close in less. Load that comes in waves lets queues run empty between
them, and brings a node all the same.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """This is to be done.

    Attributes:
      start: hosts to be asked for.
      give_back: names of hosts that end, and whose nodes are free then.
      is_withdrawn: True ends the asking for hosts that have no node yet.
    """

    start: int = 0
    give_back: tuple[str, ...] = ()
    is_withdrawn: bool = False


NO_CHANGE = Change()


@final
class Scaling:
    """It decides how many hosts are wanted, from one to as many as are allowed.

    Args:
      most: hosts; so many are wanted at first.
      idle_s: after which a host that does nothing is given back.
    """

    def __init__(self, *, most: int, idle_s: float) -> None:
        self.wanted = most
        self._most = most
        self._idle_s = idle_s
        self._idle_since_s: dict[str, float] = {}
        self._short_s = 0.0  # that requests waited, less what they did not
        self._looked_s: float | None = None
        self._calm_since_s: float | None = None

    def look(
        self, need: Need | None, *, living: Set[str], asked: int, now_s: float
    ) -> Change:
        """Returns what is to change.

        Args:
          need: what the controller says; None: it says nothing.
          living: names of hosts that have a node, and are not leaving.
          asked: hosts that were asked for and have no node yet.
          now_s: seconds of a clock that does not go back.
        """
        passed_s = now_s - self._looked_s if self._looked_s is not None else 0.0
        self._looked_s = now_s
        if need is None:
            self._idle_since_s.clear()
            self._short_s, self._calm_since_s = 0.0, None
            return self._filled(living=living, asked=asked)
        self._note(need, now_s=now_s)
        if asked or not living or not living <= set(need.hosts):
            self._short_s = 0.0  # what waits for a host that starts may need no other
        else:
            self._note_short(need, passed_s=passed_s)
        idle = self._long_idle(living, now_s=now_s)
        if idle is not None:
            self.wanted = max(1, len(living) - 1)
            del self._idle_since_s[idle]
            return Change(give_back=(idle,), is_withdrawn=asked > 0)
        if living and asked and self._is_calm(now_s):
            self.wanted = len(living)
            return Change(is_withdrawn=True)
        if self._short_s >= SHORT_S and len(living) < self._most:
            self.wanted = len(living) + 1
            self._short_s = 0.0
        return self._filled(living=living, asked=asked)

    def _note(self, need: Need, *, now_s: float) -> None:
        """Remembers since when things are as they are."""
        self._idle_since_s = {
            name: self._idle_since_s.get(name, now_s) for name in need.idle_hosts
        }
        if need.waiting:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s

    def _note_short(self, need: Need, *, passed_s: float) -> None:
        """Adds up for how long requests wait for a node."""
        short_s = self._short_s + (passed_s if need.is_short else -passed_s)
        self._short_s = min(max(0.0, short_s), SHORT_S)

    def _long_idle(self, living: Set[str], *, now_s: float) -> str | None:
        """Returns the host that is idle for longest, if that is long and one stays."""
        idle = [name for name in self._idle_since_s if name in living]
        if not idle or len(living) < 2:
            return None
        name = min(idle, key=self._idle_since_s.__getitem__)
        return name if now_s - self._idle_since_s[name] >= self._idle_s else None

    def _is_calm(self, now_s: float) -> bool:
        since_s = self._calm_since_s
        return since_s is not None and now_s - since_s >= self._idle_s

    def _filled(self, *, living: Set[str], asked: int) -> Change:
        start = self.wanted - len(living) - asked
        return Change(start=start) if start > 0 else NO_CHANGE
