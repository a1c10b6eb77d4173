"""The inside of a contained process: it limits itself, then works for its parent.

A timer of the kernel ends the process in the middle of whatever hangs, whether or not
its parent still lives; it counts processor time: a busy machine raises no alarm. A
limit of the kernel keeps its memory small. Both show as the end of the process, and the
parent starts another one.
"""

import contextlib
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

_OUT_OF_MEMORY = 3  # status


def run(serve: Callable[[socket.socket], None], *, memory_bytes: int) -> NoReturn:
    """Serves the parent until it closes its end; then the process ends.

    Args:
      serve: works on the socket whose number is the process's one argument.
      memory_bytes: of the address space, what is loaded by now included.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except MemoryError:
        sys.exit(_OUT_OF_MEMORY)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has gone
    sys.exit(0)


@contextlib.contextmanager
def deadline(limit_s: float) -> Iterator[None]:
    """Ends the process where the body takes more than `limit_s` of a processor."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
