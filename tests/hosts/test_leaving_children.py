"""A child of the head, asked to leave."""

import subprocess
import sys

from mell_jax.hosts.children import Child, start_piped

_POLITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
signal.pause()
"""
_STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""


def child(program: str) -> Child:
    def start() -> "subprocess.Popen[bytes]":
        return start_piped(
            [sys.executable, "-c", program], first_line=b"", wants_output=True
        )

    made = Child("one", start)
    assert made.process.stdout is not None
    assert made.process.stdout.readline() == b"up\n"
    return made


def test_a_child_that_is_to_leave_has_time_for_that_and_does_not_come_back() -> None:
    tested = child(_POLITE)
    tested.leave(most_s=30.0)
    assert tested.process.returncode == 0  # by its own doing: its input is open


def test_a_child_that_does_not_leave_is_ended_by_its_input() -> None:
    tested = child(_STUBBORN)
    tested.leave(most_s=0.01)
    assert tested.process.returncode == 0
