"""Processes of this machine, as /proc tells of them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_MIB = 2**20


def children(pid: int) -> dict[int, str]:
    """Returns the living children of a process, with their commands."""
    found = {}
    for folder in _folders():
        try:
            state, parent = _stat(folder)
            if parent == pid and state != "Z":
                found[int(folder.name)] = _command(folder)
        except OSError:
            continue  # it has ended meanwhile
    return found


def tree(pid: int) -> set[int]:
    """Returns a process, its children, theirs, and so on."""
    found = {pid}
    for child in children(pid):
        found |= tree(child)
    return found


def living(pids: set[int]) -> set[int]:
    """Returns those that have not ended."""
    return {pid for pid in pids if _lives(pid)}


def resident_mib(pid: int) -> float:
    """Returns the memory of a process that is not swapped out."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def wait_for(is_so: Callable[[], bool], *, most_s: float) -> bool:
    """Waits until something is so; returns whether it is."""
    end_s = time.monotonic() + most_s
    while not (so := is_so()) and time.monotonic() < end_s:
        time.sleep(0.1)
    return so


def kill_all(pids: set[int]) -> None:
    """Ends processes, whatever they do."""
    for pid in living(pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it was quicker


def _lives(pid: int) -> bool:
    try:
        return _stat(Path(f"/proc/{pid}"))[0] != "Z"
    except OSError:
        return False


def _folders() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdecimal())


def _stat(folder: Path) -> tuple[str, int]:
    """Returns the state of a process, and its parent."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def _command(folder: Path) -> str:
    return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
