"""Processes and the links between them, in a simulated time.

A link brings what is sent once and in order, however late, until it is cut. What is on
its way then still arrives, or some of it, or nothing; after the word that the link has
ended nothing comes. On a way that is silent everything waits, the word of an end too:
who is at the other end hears of it when the way is open again, or counts beats. A
process that stands still finds everything that came meanwhile when it goes on; one that
was killed is gone, and its links with it.
"""

import heapq
import random
from collections import Counter, deque
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
        self.is_silent = False
        self.lag = 0.0  # more than usual
        self._network = network
        self._waiting: list[tuple[Process, Any]] = []  # messages, until it is not
        self._told: set[Process] = set()  # ends that are to hear that it is cut
        self._deaf: set[Process] = set()  # that have heard it
        self._silent = dict.fromkeys(self.ends, 0)  # beats
        self._last = dict.fromkeys(self.ends, 0.0)  # arrival

    def other(self, end: Process) -> Process:
        """Returns who is at the other end."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def send(self, sender: Process, message: Any) -> None:
        """Sends; in vain if the link is cut."""
        if not self.is_up:
            return
        to = self.other(sender)
        if self.is_silent:
            self._waiting.append((to, message))
        else:
            self._carry(to, message)
        self._network.note(message, sender, to)

    def _carry(self, to: Process, message: Any) -> None:
        network = self._network
        delay = network.delay() + self.lag
        at = self._last[to] = max(self._last[to], network.now + delay)
        network.at(at, lambda: to.do(lambda: self._arrive(to, message)))

    def beat(self, end: Process, *, patience: int) -> None:
        """Counts a beat without a word from the other end, and then ends the link."""
        self._silent[end] += 1
        if self._silent[end] > patience:
            self.cut(end)

    def cut(self, by: Process | None = None) -> None:
        """Ends the link, of which both ends hear, with or without what was said."""
        self.is_up = False
        for end in self.ends:
            if end not in self._told and not (self.is_silent and end is not by):
                self._told.add(end)
                end.links.remove(self)
                self._tell_end(end)

    def _tell_end(self, end: Process) -> None:
        at = self._network.now + self._network.delay()
        if self._network.brings_rest():
            at = max(at, self._last[end])
        self._network.at(at, lambda: end.do(lambda: self._lose(end)))

    def open(self) -> None:
        """Ends silence: what waits goes on its way."""
        self.is_silent = False
        waiting, self._waiting = self._waiting, []
        if not self.is_up:
            self.cut()
        for to, message in waiting if self.is_up else ():
            self._carry(to, message)

    def _arrive(self, to: Process, message: Any) -> None:
        if to not in self._deaf:
            self._silent[to] = 0
            to.program.hear(self, message)

    def _lose(self, end: Process) -> None:
        self._deaf.add(end)
        end.program.lost(self)


Aim = Callable[[Any, Process, Process], None]
"""A fault that is aimed at a message; it is told what, who sends it, and to whom."""


class Network:
    """The network has the time and all links."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.counts: Counter[str] = Counter()  # messages by name
        self._rng = rng
        self._barred: set[frozenset[str]] = set()  # names that cannot connect
        self._silent: list[Link] = []
        self._lags: dict[frozenset[str], float] = {}
        self._aims: dict[str, list[tuple[int, Aim]]] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._slow = rng.choice([0.0, 0.3, 2.0])

    def delay(self) -> float:
        """Returns how long a message takes."""
        extra = self._slow * self._rng.random() if self._rng.random() < 0.1 else 0.0
        return 0.01 + 0.05 * self._rng.random() + extra

    def brings_rest(self) -> bool:
        """Draws whether what is on its way arrives though a link is cut."""
        return self._rng.random() < 0.5

    def connect(self, one: Process, other: Process) -> Link | None:
        """Returns a new link; None if the other cannot be reached."""
        names = _pair(one, other)
        if not (one.is_alive and other.is_alive) or names in self._barred:
            return None
        link = Link(self, one, other)
        link.lag = self._lags.get(names, 0.0)
        one.links.append(link)
        other.links.append(link)
        return link

    def bar(self, one: Process, other: Process, *, is_silent: bool) -> None:
        """Cuts the way between two processes, or makes it silent, until `unbar`."""
        self._barred.add(_pair(one, other))
        for link in list(one.links):
            if link.other(one) is other and is_silent:
                link.is_silent = True
                self._silent.append(link)
            elif link.other(one) is other:
                link.cut()

    def unbar(self, one: Process, other: Process) -> None:
        """Opens the way again: new links can be made."""
        self._barred.discard(_pair(one, other))
        for link in list(self._silent):
            if set(link.ends) == {one, other}:
                self._silent.remove(link)
                link.open()

    def slow(self, one: Process, other: Process, *, lag: float) -> None:
        """Makes the way between two processes that much slower; 0: as usual."""
        self._lags[_pair(one, other)] = lag
        for link in one.links:
            if link.other(one) is other:
                link.lag = lag

    def kill(self, process: Process) -> None:
        """Ends a process, and its links with it."""
        process.is_alive = False
        for link in list(process.links):
            link.cut(process)

    def aim(self, name: str, *, nth: int, fault: Aim) -> None:
        """Does something as soon as the nth message of that name is on its way."""
        self._aims.setdefault(name, []).append((nth, fault))

    def note(self, message: Any, sender: Process, to: Process) -> None:
        """Counts a message, and what it brings, and sets off what is aimed at it."""
        names = [type(message).__name__]
        inner = getattr(message, "message", None)
        if inner is not None:
            names.append(type(inner).__name__)
        for name in names:
            self.counts[name] += 1
            for nth, fault in self._aims.get(name, ()):
                if nth == self.counts[name]:
                    fault(message if name == names[0] else inner, sender, to)

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


def _pair(one: Process, other: Process) -> frozenset[str]:
    return frozenset((one.name, other.name))
