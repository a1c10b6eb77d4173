"""Device seconds are counted exactly, from one change of their number to the next."""

from typing import final


@final
class DeviceSeconds:
    """Devices in use are added up; it is told at least when their number changes."""

    __slots__ = ("_devices", "_since_s", "_total_s")

    def __init__(self) -> None:
        self._devices = 0
        self._since_s = self._total_s = 0.0

    def count(self, devices: int, *, now_s: float) -> None:
        """So many devices are in use from `now_s` on, which never goes back."""
        if devices != self._devices:
            self._total_s = self.total_s(now_s)
            self._devices, self._since_s = devices, now_s

    def total_s(self, now_s: float) -> float:
        """Returns the device seconds until `now_s`."""
        return self._total_s + self._devices * (now_s - self._since_s)
