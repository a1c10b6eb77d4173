"""The head's children: started again when they end, and ended with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mell_jax.hosts import children
from mell_jax.hosts.children import Child, host_command, start_piped
from mell_jax.hosts.host_file import HostLine
from tests.hosts.processes import living, wait_for

ROOT = Path(__file__).parents[2]
_ENDS_WITH_PARENT = (
    "import threading; from mell_jax.hosts.children import end_with_parent; "
    "over = threading.Event(); end_with_parent(over.set); print('up', flush=True); "
    "over.wait()"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children are looked at often, and start again at once."""
    monkeypatch.setattr(children, "_LOOK_S", 0.01)
    monkeypatch.setattr(children, "_MAX_PAUSE_S", 0.01)


def sleeper() -> "subprocess.Popen[bytes]":
    """Starts what ends with its input."""
    reads = "import sys; sys.stdin.read()"
    return start_piped(
        [sys.executable, "-c", reads], first_line=b"", wants_output=False
    )


@pytest.mark.usefixtures("quick")
def test_a_child_that_ends_starts_again_until_it_is_stopped() -> None:
    child = Child("a sleeper", sleeper)
    first = child.process
    os.kill(first.pid, signal.SIGKILL)
    assert wait_for(lambda: child.process is not first, most_s=10.0)
    second = child.process
    assert second.poll() is None
    child.stop()
    assert child.process is second
    assert second.poll() == 0


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_END_S", 0.1)
    forever = "import time; time.sleep(1000)"
    child = Child(
        "a deaf one",
        lambda: start_piped(
            [sys.executable, "-c", forever], first_line=b"", wants_output=False
        ),
    )
    child.stop()
    assert child.process.poll() == -signal.SIGKILL


@pytest.mark.usefixtures("quick")
def test_a_child_that_cannot_start_is_tried_again_until_it_is_stopped() -> None:
    starts: list[int] = []

    def once() -> "subprocess.Popen[bytes]":
        starts.append(1)
        if len(starts) > 1:
            raise OSError("no more processes")
        return sleeper()

    child = Child("one that cannot start", once)
    os.kill(child.process.pid, signal.SIGKILL)
    assert wait_for(lambda: len(starts) > 3, most_s=10.0)
    child.stop()


def test_orders_are_the_first_line_of_a_childs_input() -> None:
    process = start_piped(
        [sys.executable, "-c", "print(input())"],
        first_line=b'{"secret": ""}',
        wants_output=True,
    )
    out, _ = process.communicate(timeout=20)
    assert out == b'{"secret": ""}\n'


def test_a_child_ends_with_its_parent() -> None:
    parent = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {_ENDS_WITH_PARENT!r}], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE); child.stdout.readline(); "
        "print(child.pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert living({child}) == {child}
        process.kill()
    assert wait_for(lambda: not living({child}), most_s=10.0)


def test_hosts_start_here_or_by_ssh() -> None:
    here = HostLine(name="left", where="local", flags=("--mesh=2x1",))
    assert host_command(here, flags=()) == [
        *(sys.executable, "-m", "mell_jax.launch", "--orders=-", "--mesh=2x1"),
    ]
    there = HostLine(name="right", where="ops@10.0.0.7", flags=("--model=/my model",))
    assert host_command(there, flags=("--verbose",)) == [
        *("ssh", "-o", "BatchMode=yes", "ops@10.0.0.7"),
        "mell-serve --orders=- --verbose '--model=/my model'",
    ]


# The controller's process.

ORDERS = {
    "address": "127.0.0.1:0",
    "secret": "00ff",
    "beat_s": 0.5,
    "patience": 10,
    "policy": "consolidate",
    "policies": {},
    "least_hosts": 1,
    "tls": None,
    "log_format": "text",
    "verbosity": 0,
}
_CONTROLLER = [sys.executable, "-m", "mell_jax.hosts.controller_main"]


def test_the_controller_tells_where_it_listens_and_ends_with_its_input() -> None:
    with start_piped(
        _CONTROLLER, first_line=json.dumps(ORDERS).encode(), wants_output=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        host, _, port = process.stdout.readline().decode().strip().partition(":")
        assert host == "127.0.0.1" and int(port) > 0
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == 0


def test_the_controller_says_why_it_cannot_listen() -> None:
    orders = {**ORDERS, "address": "192.0.2.1:7000"}  # of nobody
    done = subprocess.run(
        _CONTROLLER,
        input=json.dumps(orders) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "mell-serve: the controller: " in done.stderr


def test_the_controller_needs_no_jax() -> None:
    code = (
        "import sys; import mell_jax.hosts.controller_main; "
        "print(sorted({'jax', 'flax', 'grpc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def failing(status: int, *, says: str) -> "subprocess.Popen[bytes]":
    """Starts what says something, and ends."""
    does = f"import sys; sys.stderr.write({says!r}); sys.exit({status})"
    return start_piped(
        [sys.executable, "-c", does],
        first_line=b"",
        wants_output=False,
        wants_errors=True,
    )


@pytest.mark.usefixtures("quick")
def test_one_that_would_only_end_again_is_not_started_again(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    starts: list[int] = []

    def start() -> "subprocess.Popen[bytes]":
        starts.append(1)
        return failing(2, says="first\nmell-serve: --mesh is no good\n\n")

    child = Child("host left", start, is_useless=lambda status: status == 2)
    assert wait_for(lambda: bool(child.trouble), most_s=20.0)
    assert child.trouble == ("host left has ended (2: mell-serve: --mesh is no good)")
    child.stop()
    assert starts == [1]
    assert b"first\nmell-serve: --mesh is no good\n" in capfdbinary.readouterr().err


@pytest.mark.usefixtures("quick")
def test_one_that_ends_otherwise_starts_again_and_its_last_words_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts: list[int] = []

    def start() -> "subprocess.Popen[bytes]":
        starts.append(1)
        return failing(3, says="no memory") if len(starts) == 1 else sleeper()

    child = Child("host left", start, is_useless=lambda status: status == 2)
    assert wait_for(lambda: len(starts) > 1, most_s=20.0)
    child.stop()
    assert child.trouble == ""
    assert "host left has ended (3: no memory); it starts again" in caplog.text
