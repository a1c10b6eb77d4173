"""Processes and the links between them, in a simulated time.

A link brings what is sent once and in order, however late, until it is cut. A process
that stands still finds everything that came meanwhile when it goes on; one that was
killed is gone, and its links with it.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol


class Ears(Protocol):
    """The program of a process hears."""

    def hear(self, link: "Link", message: Any) -> None: ...

    def lost(self, link: "Link") -> None: ...


class Process:
    """A process runs a program, stands still, or is dead."""

    def __init__(self, name: str, program: Ears) -> None:
        self.name = name
        self.program = program
        self.is_alive = True
        self.is_stopped = False
        self.links: list[Link] = []
        self._missed: deque[Callable[[], None]] = deque()

    def do(self, act: Callable[[], None]) -> None:
        """Does something now, or as soon as the process goes on."""
        if not self.is_alive:
            return
        if self.is_stopped:
            self._missed.append(act)
        else:
            act()

    def go_on(self) -> None:
        """Ends a stop: first comes what was missed."""
        self.is_stopped = False
        while self._missed and self.is_alive and not self.is_stopped:
            self._missed.popleft()()


class Link:
    """A link has two ends; see `Network.connect`."""

    def __init__(self, network: "Network", one: Process, other: Process) -> None:
        self.ends = (one, other)
        self.is_up = True
        self.lag = 0.0  # more than usual
        self._network = network
        self._silent = dict.fromkeys(self.ends, 0)  # beats
        self._last = dict.fromkeys(self.ends, 0.0)  # arrival

    def other(self, end: Process) -> Process:
        """Returns who is at the other end."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def send(self, sender: Process, message: Any) -> None:
        """Sends; in vain if the link is cut."""
        if not self.is_up:
            return
        to, network = self.other(sender), self._network
        delay = network.delay() + self.lag
        at = self._last[to] = max(self._last[to], network.now + delay)
        network.at(at, lambda: to.do(lambda: self._arrive(to, message)))

    def beat(self, end: Process, *, patience: int) -> None:
        """Counts a beat without a word from the other end, and then ends the link."""
        self._silent[end] += 1
        if self._silent[end] > patience:
            self.cut()

    def cut(self) -> None:
        """Ends the link; what is on its way is lost, and both ends hear of it."""
        if not self.is_up:
            return
        self.is_up = False
        for end in self.ends:
            end.links.remove(self)
            self._network.later(
                self._network.delay(), lambda end=end: end.do(lambda: self._lost(end))
            )

    def _arrive(self, to: Process, message: Any) -> None:
        if self.is_up:
            self._silent[to] = 0
            to.program.hear(self, message)

    def _lost(self, end: Process) -> None:
        end.program.lost(self)


class Network:
    """The network has the time and all links."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.barred: set[frozenset[str]] = set()  # names that cannot connect
        self._rng = rng
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._slow = rng.choice([0.0, 0.3, 2.0])

    @property
    def is_quiet(self) -> bool:
        """Returns whether nothing will happen any more."""
        return not self._queue

    def delay(self) -> float:
        """Returns how long a message takes."""
        extra = self._slow * self._rng.random() if self._rng.random() < 0.1 else 0.0
        return 0.01 + 0.05 * self._rng.random() + extra

    def connect(self, one: Process, other: Process) -> Link | None:
        """Returns a new link; None if the other cannot be reached."""
        names = frozenset((one.name, other.name))
        if not (one.is_alive and other.is_alive) or names in self.barred:
            return None
        link = Link(self, one, other)
        one.links.append(link)
        other.links.append(link)
        return link

    def bar(self, one: Process, other: Process) -> None:
        """Cuts the way between two processes; `unbar` opens it again."""
        self.barred.add(frozenset((one.name, other.name)))
        for link in list(one.links):
            if link.other(one) is other:
                link.cut()

    def unbar(self, one: Process, other: Process) -> None:
        """Opens the way again: new links can be made."""
        self.barred.discard(frozenset((one.name, other.name)))

    def kill(self, process: Process) -> None:
        """Ends a process, and its links with it."""
        process.is_alive = False
        for link in list(process.links):
            link.cut()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Does something at a time."""
        self._numbers += 1
        heapq.heappush(self._queue, (when, self._numbers, act))

    def later(self, delay: float, act: Callable[[], None]) -> None:
        """Does something after a delay."""
        self.at(self.now + delay, act)

    def next(self) -> None:
        """Does what is due next."""
        self.now, _, act = heapq.heappop(self._queue)
        act()
