"""The controller remembers which groups of a lost host an operator has set aside.

`Join` has what the host knows of that: -> restore -> `HostEntry.aside`
what is known here, by name of host:    ---'  '-----> `SetAside`, where they differ
"""

from collections.abc import Iterator
from typing import final

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.roll import HostEntry


@final
class AsideOfLost:
    """The controller remembers this, for a host may have lost its link before it heard.

    A process that is new begins with nothing set aside.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, frozenset[int]] = {}  # of groups that worked, by host

    def note(self, host: HostEntry) -> None:
        """A host is about to be lost."""
        self._numbers[host.name] = frozenset(
            n for n, device in enumerate(host.devices) if device in host.aside
        )

    def restore(self, host: HostEntry, join: words.Join) -> Iterator[words.SetAside]:
        """Sets groups of a host aside that has joined; yields what it has not heard."""
        told = frozenset(join.aside)
        known = self._numbers.pop(host.name, told)
        numbers = told if join.epoch is None else known
        for number, device in enumerate(host.devices):
            is_aside = number in numbers
            if is_aside:
                host.aside.add(device)
            if is_aside != (number in told):
                yield words.SetAside(device=device, is_aside=is_aside)
