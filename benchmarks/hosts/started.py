"""Starts `mell-serve` in processes of its own: alone, or as the head of hosts.

    serving(flags)            one process                          --model=...
    serving_hosts(names, ..)  head, controller, a host per name    --hosts=FILE

Hosts are told from each other by the file of settings that each is given.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

START_S = 600.0  # several processes compile on a machine that others may use
_END_S = 60.0
_LOOK_S = 0.05
_SERVED = re.compile(r" served at (\S+), ")


@final
class Started:
    """A server runs; `text` is what all of its processes write."""

    def __init__(self, process: subprocess.Popen[bytes], *, log: Path) -> None:
        self.address = ""  # of its gRPC door
        self._process = process
        self._log = log

    def text(self) -> str:
        """Returns what was written so far."""
        return self._log.read_text(errors="replace")

    def wait_served(self) -> None:
        """Waits until it takes requests.

        Raises:
          RuntimeError: it does not start.
        """
        self._wait(lambda: _SERVED.search(self.text()) is not None)
        found = _SERVED.search(self.text())
        assert found is not None
        self.address = found[1]

    def wait_joined(self, name: str, *, times: int) -> None:
        """Waits until a host has joined so often.

        Raises:
          RuntimeError: it does not start.
        """
        self._wait(lambda: self.times_joined(name) >= times)

    def times_joined(self, name: str) -> int:
        """Returns how often a host has said where it is."""
        return self.text().count(f"host {name} is at ")

    def host(self, name: str) -> int | None:
        """Returns the process of a host; None while there is none."""
        for pid in _children(self._process.pid):
            if f"{name}.toml" in _command(pid):
                return pid
        return None

    def cpu_s(self) -> float:
        """Returns the processor time of all of its processes so far."""
        return sum(map(_cpu_s, _tree(self._process.pid)))

    @property
    def pid(self) -> int:
        """Returns the process that was started."""
        return self._process.pid

    def end(self) -> None:
        """Ends it in order, or by force if that takes long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children hear of that
            self._process.wait()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        end_s = time.monotonic() + START_S
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"mell-serve does not start: {self.text()[-2000:]}")
            time.sleep(_LOOK_S)


def step_flags(folder: Path, *, rows: int) -> list[str]:
    """Returns flags with which few programs are compiled, and are kept in a folder."""
    settings = folder / "settings.toml"
    settings.write_text(f"[engine]\ndecode_rows = [{rows}]\n")
    return [
        f"--config={settings}",
        f"--max_rows={rows}",
        "--token_budget=128",
        f"--compilation_cache_dir={folder / 'compiled'}",
        "--policy=spread",  # every host has its part
    ]


def pin(pid: int, *, core: int) -> None:
    """Has all threads of a process run on one core from now on."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextlib.contextmanager
def serving(folder: Path, *, flags: Sequence[str]) -> Iterator[Started]:
    """Yields a server that takes requests.

    Args:
      folder: new; of its files.
      flags: of `mell-serve`, but for its ports.

    Raises:
      RuntimeError: it does not start.
    """
    folder.mkdir()
    path = folder / "log"
    with path.open("wb") as log:
        command = [sys.executable, "-m", "mell_jax.launch", "--port=0", *flags]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    started = Started(process, log=path)
    try:
        started.wait_served()
        yield started
    finally:
        started.end()


@contextlib.contextmanager
def serving_hosts(
    folder: Path, *, names: Sequence[str], flags: Sequence[str]
) -> Iterator[Started]:
    """Yields a head whose hosts have all joined; they are on this machine.

    Args:
      folder: new; of its files.
      names: of the hosts.
      flags: of `mell-serve`, for the head and so for its hosts.

    Raises:
      RuntimeError: one of them does not start.
    """
    folder.mkdir()
    lines = []
    for name in names:
        own = folder / f"{name}.toml"
        own.touch()
        lines.append(f"{name} local --config={own}\n")
    hosts = folder / "hosts"
    hosts.write_text("".join(lines))
    with serving(folder / "head", flags=[f"--hosts={hosts}", *flags]) as started:
        for name in names:
            started.wait_joined(name, times=1)
        yield started


def _children(pid: int) -> list[int]:
    """Returns the children of a process, whichever of its threads started them."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def _tree(pid: int) -> list[int]:
    return [pid, *(each for child in _children(pid) for each in _tree(child))]


def _cpu_s(pid: int) -> float:
    """Returns user and system time of a process, as Linux tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""  # it has ended meanwhile
