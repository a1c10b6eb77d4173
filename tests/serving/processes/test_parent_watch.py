"""A front end never outlives the engine's process, even if its event loop hangs."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.serving.processes.watching_parent import ORDERLY

ROOT = Path(__file__).parents[3]
WATCHING = (sys.executable, "-m", "tests.serving.processes.watching_parent")


@contextmanager
def child(
    role: str, *, patience_s: float
) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """A process of `watching_parent`, and the engine's end of its socket pair."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [*WATCHING, role, str(patience_s), str(theirs.fileno())],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        try:
            yield process, ours
        finally:
            process.kill()
            process.communicate()


def test_a_front_end_that_hangs_is_gone_after_its_engine_was_killed() -> None:
    parent = subprocess.Popen(
        [*WATCHING, "parent", "0.2"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        lines = {parent.stdout.readline(), parent.stdout.readline()}
        assert "blocked\n" in lines
        (number,) = lines - {"blocked\n"}
        front = psutil.Process(int(number))
        parent.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs([front], timeout=30)
        for process in alive:
            process.kill()
        assert (len(gone), alive) == (1, [])


def test_a_front_end_that_hangs_ends_with_a_status_of_its_own() -> None:
    with child("blocks", patience_s=0.2) as (process, ours):
        assert process.stdout is not None
        assert process.stdout.readline() == "blocked\n"
        assert process.poll() is None
        ours.close()
        assert process.wait(30) == 1


def test_a_front_end_whose_engine_lives_is_left_alone() -> None:
    with child("echoes", patience_s=0.0) as (process, ours):
        for _ in range(1000):
            ours.sendall(b"x")
            assert ours.recv(1) == b"x"
        assert process.poll() is None


def test_an_orderly_end_is_not_cut_short() -> None:
    with child("echoes", patience_s=1000.0) as (process, ours):
        ours.sendall(b"x")
        assert ours.recv(1) == b"x"
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""  # it is told, not found out when the process is gone
        assert process.wait(30) == ORDERLY
