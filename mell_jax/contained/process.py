"""A process with a deadline and a memory limit answers messages, one at a time.

ask -> [socket] -> the child (`child.run`) -> [socket] -> answer
           closed: it took too long or too much; the owner starts another one
"""

import contextlib
import signal
import socket
import subprocess
import sys
from typing import TypeVar, final

import msgspec

from mell_jax.contained.wire import receive, send

_PATIENCE_S = 30.0  # for a process to start, and for one that its timer did not end
_EXIT_S = 1.0

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


@final
class ContainedProcess:
    """One process from its start to its end; one thread at a time calls it.

    Args:
      module: what it runs; it calls `mell_jax.contained.child.run`.
      first: a message that it is sent at once, without an answer.
      limit_s: of a processor that it gives each of its works.
      memory_bytes: of the address space that it gives itself.
    """

    def __init__(
        self, module: str, *, first: msgspec.Struct, limit_s: float, memory_bytes: int
    ) -> None:
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self.has_ended = False
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(_PATIENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the parent
            )
        with contextlib.suppress(OSError):  # its end shows when it is asked
            send(self._sock, first)

    def ask(
        self, message: msgspec.Struct | None, *, kind: type[AnswerT]
    ) -> AnswerT | str:
        """Returns the answer, or what the process took too much of when it ended.

        Args:
          message: None waits for an answer to `first`.
          kind: of the answer.
        """
        try:
            if message is not None:
                send(self._sock, message)
            answer = receive(self._sock, kind)
        except OSError:  # it has ended, or its timer has not ended it
            answer = None
        return self.end() if answer is None else answer

    def end(self) -> str:
        """Ends the process; says what it took too much of, if it ended by itself."""
        self.has_ended = True
        self._sock.close()
        try:
            status = self.process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = -signal.SIGPROF
        if status == -signal.SIGPROF:
            return f"more than {self._limit_s} s of a processor"
        if status == -signal.SIGSEGV:
            return "more of the stack than there is"
        return f"more than {self._memory_bytes >> 20} MiB"
