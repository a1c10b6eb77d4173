"""Faults at random, one in each wave of streams, and what has become of the fleet.

wave of 64 streams ----- one of these, at any time ----- all whole? tokens equal?
             killed, stopped and continued, cut off, slowed down, full, front end lost
"""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.hosts.clients import CUT, Got, Wave
from tests.hosts.processes import resident_mib
from tests.hosts.proof import WANTED, bring_back, check_begun, check_rest, check_same
from tests.hosts.real_hosts import Networks, RealFleet

_SLOW = ("rate", "4mbit", "burst", "16kb", "latency", "2s")
_PROCESSES = ("a", "b", "c", "controller")  # whose loss costs no stream
_CALM_WAVES = 5  # after which a process has what it needs
_FRONT_END_S = 130.0  # between two that are killed: several in a row end the server
_REST_WAVES = 6  # from one look at pages to the next


class FaultRun:
    """A run of faults; every wave is checked when it is over.

    Args:
      fleet: whole, with host c.
      undisturbed: what clients get while nothing happens.
      seed: of what happens when.
    """

    def __init__(
        self, fleet: RealFleet, undisturbed: Sequence[Got], *, seed: int
    ) -> None:
        self._fleet = fleet
        self._undisturbed = undisturbed
        self._rng = random.Random(seed)
        self._waves = 0
        self._faults: Counter[str] = Counter()
        self._cut = 0  # streams of front ends that were killed
        self._rests = 0  # times that all pages were seen to be free
        self._longest_gap_s = 0.0
        self._next_front_end_s = 0.0
        self._memory: dict[int, list[float]] = {}  # MiB by process, wave by wave
        self._names: dict[int, str] = {}
        self._kinds: dict[str, Callable[[], str]] = {
            "kill": self._kill,
            "stop": self._stop,
            "front end": self._kill_front_end,
            "operator": self._operate,
        }
        if fleet.networks is not None:
            self._kinds |= {"cut": self._cut_link, "slow": self._slow_link}

    def calm_wave(self) -> None:
        """Serves a wave of streams to which nothing happens."""
        self._check(Wave(self._fleet.http, WANTED).end(), may_be_cut=False)
        self._weigh()

    def one_wave(self) -> str:
        """Does something to a wave of streams, and checks them; returns what."""
        wave = Wave(self._fleet.http, WANTED)
        time.sleep(self._rng.uniform(0.0, 1.5))
        kind, told = self._something()
        came = wave.end()
        print(f"{told}: ", end="")
        self._check(came, may_be_cut=kind == "front end")
        gap_s = max(got.gap_s for got in came)
        self._longest_gap_s = max(self._longest_gap_s, gap_s)
        self._waves += 1
        self._faults[kind] += 1
        self._weigh()
        if self._waves % _REST_WAVES == 0:
            self._look_at_pages()
        return f"wave {self._waves}, longest gap {gap_s:.2f} s"

    def rest(self) -> None:
        """Mends what lasts, and checks that the fleet is as it was."""
        bring_back(self._fleet)
        check_same(Wave(self._fleet.http, WANTED).end(), self._undisturbed)
        self._look_at_pages()

    def summary(self) -> str:
        """Returns what happened, in a line."""
        return (
            f"{self._waves} waves of {len(WANTED)} streams, {dict(self._faults)}: no "
            f"wrong token, no stream lost but {self._cut} of killed front ends, all "
            f"pages free {self._rests} times, longest gap {self._longest_gap_s:.2f} s, "
            f"MiB: {self.memory()}"
        )

    def memory(self) -> str:
        """Returns the memory of processes that lived for long, every few waves."""
        return "; ".join(
            " ".join([self._names[pid], *(f"{mib:.0f}" for mib in each[::_CALM_WAVES])])
            for pid, each in self._memory.items()
            if len(each) > _CALM_WAVES
        )

    def growth_mib(self, *names: str) -> float:
        """Returns the most that one of these has grown once it had what it needs."""
        grown = [
            each[-1] - each[_CALM_WAVES]
            for pid, each in self._memory.items()
            if len(each) > _CALM_WAVES and self._names[pid] in names
        ]
        return max(grown, default=0.0)

    def _check(self, came: Sequence[Got], *, may_be_cut: bool) -> None:
        """All streams are whole and the same, but those of a killed front end."""
        cut = [i for i, got in enumerate(came) if may_be_cut and is_cut(got)]
        self._cut += len(cut)
        check_begun([came[i] for i in cut], [self._undisturbed[i] for i in cut])
        kept = [i for i in range(len(came)) if i not in cut]
        check_same([came[i] for i in kept], [self._undisturbed[i] for i in kept])

    def _look_at_pages(self) -> None:
        check_rest(self._fleet)
        self._rests += 1

    def _weigh(self) -> None:
        for name, pid in self._fleet.pids().items():
            self._names[pid] = name
            self._memory.setdefault(pid, []).append(resident_mib(pid))

    # What happens.

    def _something(self) -> tuple[str, str]:
        """Does something to somebody who is there; returns its kind, and what."""
        if "c" not in self._fleet.pids():
            self._fleet.join_far()
            return "join", "c joined"
        kinds = sorted(self._kinds)
        if time.monotonic() < self._next_front_end_s:
            kinds.remove("front end")
        kind = self._rng.choice(kinds)
        return kind, self._kinds[kind]()

    def _pick(self, *names: str) -> str:
        present = self._fleet.pids()
        return self._rng.choice([name for name in names if name in present])

    def _seconds(self) -> float:
        return self._rng.choice([0.3, 1.0, 3.0, 6.0])

    def _kill(self) -> str:
        name = self._pick(*_PROCESSES)
        self._fleet.hit(name, with_signal=signal.SIGKILL)
        return f"{name} killed"

    def _stop(self) -> str:
        name, seconds = self._pick(*_PROCESSES, "head"), self._seconds()
        pid = self._fleet.hit(name, with_signal=signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        return f"{name} stopped for {seconds} s"

    def _kill_front_end(self) -> str:
        """Kills what talks to clients, and waits until another one does."""
        self._next_front_end_s = time.monotonic() + _FRONT_END_S
        self._fleet.hit("front end", with_signal=signal.SIGKILL)
        self._fleet.wait_answering()
        return "front end killed"

    def _operate(self) -> str:
        seed, seconds = self._rng.randrange(1000), self._seconds()
        done = self._fleet.operate(seed=seed, seconds=seconds)
        return f"operator, {seconds} s: {done}"

    def _cut_link(self) -> str:
        seconds = self._seconds()
        self._networks.pull()
        time.sleep(seconds)
        self._networks.plug()
        return f"link cut for {seconds} s"

    def _slow_link(self) -> str:
        seconds = self._seconds()
        assert self._networks.slow("tbf", *_SLOW)
        time.sleep(seconds)
        self._networks.hasten()
        return f"link slow for {seconds} s"

    @property
    def _networks(self) -> Networks:
        assert self._fleet.networks is not None
        return self._fleet.networks


def is_cut(got: Got) -> bool:
    """Tells whether a stream has lost the process that it talked to.

    Nobody was there to say so: the error is the connection's own.
    """
    return (
        got.error == CUT
        or re.match(r"\w+(Error|Disconnected): ", got.error) is not None
    )
