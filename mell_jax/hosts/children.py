"""The head of a fleet starts its other processes, and starts again those that end.

    controller   a child of this process
    host         a child, or what ssh starts elsewhere

A child hears of the end of this process by the end of its standard input.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, final

from absl import logging

from mell_jax.hosts.host_file import HostLine
from mell_jax.serving.grpc_log import quiet_environment

_LOOK_S = 0.2
_CALM_S = 60.0  # after which a child that ends has not ended in a row
_MAX_PAUSE_S = 30.0
_END_S = 20.0  # for a host's last words
_LAST_S = 1.0
_MOST_LAST = 500  # characters


@final
class Child:
    """A child is a process that is to live until `stop`.

    Args:
      name: in the log.
      start: starts it; called again whenever it has ended.
      is_useless: tells by its exit status whether it would only end again.

    Attributes:
      trouble: why it is not started again; empty while it is.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], "subprocess.Popen[bytes]"],
        *,
        is_useless: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self.trouble = ""
        self._start = start
        self._is_useless = is_useless
        self._is_stopping = threading.Event()
        self.process = start()
        self._said = LastWords(self.process.stderr)
        self._since_s = time.monotonic()
        self._ends = 0  # in a row
        self._thread = threading.Thread(
            target=self._watch, name=f"mell-child-{name}", daemon=True
        )
        self._thread.start()

    def begin_stop(self) -> None:
        """Has it end, without waiting; it hears that by its standard input."""
        self._is_stopping.set()
        if self.process.stdin is not None:
            _end_input(self.process.stdin)

    def stop(self) -> None:
        """Ends it, and waits for that; kills it if that takes long."""
        self.begin_stop()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()
        _close(self.process)

    def leave(self, *, most_s: float) -> None:
        """Has it put its things in order (SIGTERM), and end; after `most_s`, `stop`."""
        self._is_stopping.set()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # `stop` is less patient
            self.process.wait(most_s)
        self.stop()

    def _watch(self) -> None:
        while not self._is_stopping.wait(_LOOK_S):
            status = self.process.poll()
            if status is None:
                continue
            if time.monotonic() - self._since_s > _CALM_S:
                self._ends = 0
            last = self._said.last()
            how = f"{self.name} has ended ({status}{f': {last}' if last else ''})"
            if self._is_useless(status):
                self.trouble = how
                logging.error("%s; it is not started again", how)
                return
            self._ends += 1
            pause_s = min(0.5 * 2 ** (self._ends - 1), _MAX_PAUSE_S)
            logging.error("%s; it starts again in %.1f s", how, pause_s)
            if self._is_stopping.wait(pause_s):
                return
            self._start_again()

    def _start_again(self) -> None:
        """Starts it; what cannot be started has ended, too, and is tried once more."""
        _close(self.process)
        try:
            self.process = self._start()
            self._said = LastWords(self.process.stderr)
        except OSError as error:
            logging.error("%s cannot be started: %s", self.name, error)
        self._since_s = time.monotonic()


@final
class LastWords:
    """These pass on what a process writes to its standard error, and keep its end.

    Args:
      pipe: to read; None where the process writes to where we do.
    """

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._last = b""
        self._thread = threading.Thread(
            target=self._pass_on, args=(pipe,), name="mell-errors", daemon=True
        )
        self._thread.start()

    def last(self) -> str:
        """Returns the last line that says something, of a process that has ended."""
        self._thread.join(_LAST_S)  # a grandchild may keep the pipe open
        return self._last.decode(errors="replace").strip()[:_MOST_LAST]

    def _pass_on(self, pipe: IO[bytes] | None) -> None:
        if pipe is None:
            return
        with pipe:
            for line in pipe:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
                self._last = line if line.strip() else self._last


def _end_input(pipe: IO[bytes]) -> None:
    """Closes a child's input, whether or not it is still there to read it."""
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _close(process: "subprocess.Popen[bytes]") -> None:
    """Closes what was left open to a child that has ended."""
    if process.stdin is not None:
        _end_input(process.stdin)
    if process.stdout is not None:
        process.stdout.close()


def start_piped(
    command: Sequence[str],
    *,
    first_line: bytes,
    wants_output: bool,
    wants_errors: bool = False,
) -> "subprocess.Popen[bytes]":
    """Starts a child that reads its orders from its standard input.

    Args:
      wants_output: whether the caller reads what it writes.
      wants_errors: the same of its standard error, as `Child` does.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if wants_output else None,
        stderr=subprocess.PIPE if wants_errors else None,
        env=quiet_environment(),
        process_group=0,  # Ctrl-C is for this process
    )
    assert process.stdin is not None
    process.stdin.write(first_line + b"\n")
    process.stdin.flush()
    return process


def host_command(line: HostLine, *, flags: Sequence[str]) -> list[str]:
    """Returns the command that starts a host, here or elsewhere."""
    words = ["--orders=-", *flags, *line.flags]
    if line.is_local:
        return [sys.executable, "-m", "mell_jax.launch", *words]
    remote = shlex.join(["mell-serve", *words])
    return ["ssh", "-o", "BatchMode=yes", line.where, remote]


USELESS = (1, 2, 126, 127)
"""A command that ends so before it has done anything is wrong, or not there."""


def end_with_parent(end: Callable[[], None]) -> None:
    """Calls `end` when the standard input ends, as it does with the parent."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        end()

    threading.Thread(target=wait, name="mell-parent", daemon=True).start()
