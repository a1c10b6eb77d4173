"""Ends a front end whose event loop hangs when the engine's process has gone.

The loop notices by itself that nobody is at the other end of its socket, but only when
it runs. So a thread waits for that in the kernel, gives the loop time to end in order,
and then ends the process. It needs Python's lock for a moment: a call of C that holds
it delays the end.
"""

import contextlib
import os
import select
import socket
import threading
import time
from typing import final

PATIENCE_S = 10.0
"""For last words to clients; the loop's own way out takes two seconds."""
_STATUS = 1


@final
class ParentWatch:
    """Ties this process to whoever has the other end of a socket pair.

    Args:
      sock: this end; the watch keeps a copy.
      patience_s: from the end of the other side to that of this process.
    """

    def __init__(self, sock: socket.socket, *, patience_s: float) -> None:
        self._sock = sock.dup()
        self._patience_s = patience_s
        threading.Thread(
            target=self._run, name="mell-parent_watch", daemon=True
        ).start()

    def let_go(self) -> None:
        """Says to the other side that this process ends, for which it has `patience_s`.

        Without that the other side would hear of it when the process is gone.
        """
        with contextlib.suppress(OSError):  # the other side has gone before
            self._sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        waiting = select.poll()
        waiting.register(self._sock, 0)  # nothing but the end, which is always told
        waiting.poll()
        time.sleep(self._patience_s)
        os._exit(_STATUS)
