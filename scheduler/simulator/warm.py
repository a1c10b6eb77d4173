"""A warm pool keeps some idle devices ready to serve sooner than the others.

    opened    takes a warm device, or the next that will be one, if that is sooner than
              loading a cold one
    parked    the device is warm at once, while there are fewer than there should be
    refilled  out of the other idle devices, each in the time that a model takes to load

Devices are alike, so the pool counts them and knows none by its number.
"""

import math
from typing import final


@final
class WarmPool:
    """The pool holds the seconds at which its devices are warm, or were.

    Args:
      size: devices that it keeps, if so many are idle.
      warm_s: in which one of them loads a model.
      idle: devices that nobody uses at the start.
    """

    def __init__(self, *, size: int, warm_s: float, idle: int) -> None:
        self._size = size
        self._warm_s = warm_s
        self._warm_at_s = [-math.inf] * min(size, idle)

    def __len__(self) -> int:
        return len(self._warm_at_s)

    def open(self, *, now_s: float, cold_s: float, idle: int) -> float:
        """Takes a device; returns the seconds until its model is loaded.

        Args:
          cold_s: that the model takes on a cold device.
          idle: devices that are left.
        """
        takes_s = cold_s
        if self._warm_at_s:
            first_s = min(self._warm_at_s)
            from_pool_s = max(0.0, first_s - now_s) + self._warm_s
            if from_pool_s < cold_s:
                self._warm_at_s.remove(first_s)
                takes_s = from_pool_s
        while len(self._warm_at_s) > idle:  # a cold one was not to be had
            self._warm_at_s.remove(max(self._warm_at_s))
        while len(self._warm_at_s) < min(self._size, idle):
            self._warm_at_s.append(now_s + cold_s)
        return takes_s

    def park(self, *, now_s: float) -> None:
        """Takes a device back."""
        if not self._size:
            return
        if len(self._warm_at_s) == self._size:
            latest_s = max(self._warm_at_s)
            if latest_s <= now_s:
                return  # all of them are warm
            self._warm_at_s.remove(latest_s)
        self._warm_at_s.append(now_s)
