"""What a test has started ends with the test, also when that fails or is interrupted.

Ray's processes start others, and leave them behind when they are killed. Orphans come
to this process, which is a subreaper (Linux), so that all are found below it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts.processes import kill_all, living, tree, wait_for

_PR_SET_CHILD_SUBREAPER = 36
_END_S = 20.0


@contextmanager
def reaped() -> Iterator[None]:
    """Has no descendant of this process outlive the block; SIGTERM ends the block.

    Raises:
      OSError: this process cannot be a subreaper.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # nothing of this is to be left
            signal.signal(number, signal.SIG_IGN)
        assert wait_for(_end_all, most_s=_END_S), f"still there: {_descendants()}"


def _end_all() -> bool:
    """Ends all that there are; tells whether there were none."""
    found = _descendants()
    kill_all(found)
    while _bury():
        pass
    return not found


def _bury() -> bool:
    """Takes note of a child that has ended, if there is one."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _descendants() -> set[int]:
    own = os.getpid()
    return living(tree(own)) - {own}
