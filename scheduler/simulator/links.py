"""Links between devices: of each device, of each host, and the switch between hosts.

    device 0 -- host 0 --+        +-- host 1 -- device 8
    device 1 --'          switch           '--- device 9

Each has a speed, those of devices and hosts each way. What goes through a link at the
same time divides it fairly (max-min): nobody gets less for another that could do with
less. Links that are not shared, one move after the other, are in `Carriage`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.transfer import LinkId

SWITCH = LinkId("switch")
NOTHING_BYTES = 1e-3  # less than this is rounding: it is there


def path(
    settings: Settings, *, source: DeviceGroupId, target: DeviceGroupId
) -> tuple[LinkId, ...]:
    """Returns the links that a move goes through."""
    out, into = LinkId(f"{source} out"), LinkId(f"{target} in")
    hosts = [device // settings.devices_per_host for device in (source, target)]
    if not settings.are_links_shared or hosts[0] == hosts[1]:
        return (out, into)
    leave, enter = LinkId(f"host {hosts[0]} out"), LinkId(f"host {hosts[1]} in")
    return (out, leave, SWITCH, enter, into)


@final
class LinkSpeeds(Mapping[LinkId, float]):
    """Any link carries so many bytes in some seconds; looked up, never listed."""

    def __init__(self, settings: Settings, *, seconds: float) -> None:
        each = seconds * 1e9 / 8
        self._device = settings.link_gbps * each
        self._host = settings.host_gbps * each
        self._switch = settings.switch_gbps * each

    def __getitem__(self, link: LinkId) -> float:
        if link == SWITCH:
            return self._switch
        return self._host if link.startswith("host ") else self._device

    def __iter__(self) -> Iterator[LinkId]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Flow:
    """What one move sends."""

    links: tuple[LinkId, ...]
    left_bytes: float
    then: Callable[[Any], None]
    subject: Any
    bytes_per_s: float = 0.0


@final
class SharedLinks:
    """Moves divide the links that they go through; each change divides them anew."""

    def __init__(self, settings: Settings, *, agenda: Agenda) -> None:
        self._speeds = LinkSpeeds(settings, seconds=1.0)
        self._agenda = agenda
        self._flows: list[_Flow] = []
        self._since_s = 0.0  # the division stands
        self._number = 0  # of the next end on the agenda

    def carry(
        self,
        links: tuple[LinkId, ...],
        *,
        amount_bytes: float,
        from_s: float,
        then: Callable[[Any], None],
        subject: Any,
    ) -> None:
        """Sends bytes through links from `from_s` on, then calls `then(subject)`."""
        flow = _Flow(links=links, left_bytes=amount_bytes, then=then, subject=subject)
        if from_s > self._agenda.now_s:
            self._agenda.note(from_s, self._begin, flow)
        else:
            self._begin(flow, 0)

    def _begin(self, flow: _Flow, number: int) -> None:
        self._pass()
        self._flows.append(flow)
        self._divide()

    def _pass(self) -> None:
        """Takes from every flow what was sent since the last division."""
        now_s = self._agenda.now_s
        for flow in self._flows:
            if flow.bytes_per_s == math.inf:
                flow.left_bytes = 0.0
            else:
                flow.left_bytes -= flow.bytes_per_s * (now_s - self._since_s)
        self._since_s = now_s

    def _divide(self) -> None:
        """Gives every flow its part, and notes which ends first."""
        rates = divide_links([flow.links for flow in self._flows], speeds=self._speeds)
        ends_s = math.inf
        for flow, rate in zip(self._flows, rates, strict=True):
            flow.bytes_per_s = rate
            ends_s = min(ends_s, max(0.0, flow.left_bytes) / rate)
        if self._flows:
            at_s = self._agenda.now_s + ends_s
            self._number = self._agenda.note(at_s, self._end, None)

    def _end(self, subject: None, number: int) -> None:
        """Some flow has sent everything, unless another came meanwhile."""
        if number != self._number:
            return
        self._pass()
        ended = [flow for flow in self._flows if flow.left_bytes <= NOTHING_BYTES]
        self._flows = [flow for flow in self._flows if flow not in ended]
        self._divide()
        for flow in ended:
            flow.then(flow.subject)


def divide_links(
    flows: Sequence[tuple[LinkId, ...]], *, speeds: Mapping[LinkId, float]
) -> list[float]:
    """Returns the part of each flow, by max-min fairness: the scarcest link first."""
    rates = [math.inf] * len(flows)
    open_ = {
        at for at, links in enumerate(flows) if any(speeds[n] < math.inf for n in links)
    }
    left = {link: speeds[link] for links in flows for link in links}
    while open_:
        users = Counter(link for at in sorted(open_) for link in flows[at])
        scarcest = min(users, key=lambda link: left[link] / users[link])
        part = left[scarcest] / users[scarcest]
        for at in [at for at in open_ if scarcest in flows[at]]:
            rates[at] = part
            open_.remove(at)
            for link in flows[at]:
                left[link] -= part
    return rates
