"""Who is told to stop before it serves ends at once, by the signal, and alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.serving.fake_server import command, started

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
NEW_PIDS = ("unshare", "--pid", "--fork", "--kill-child")


def starting(
    directory: Path, template: Path | None, *, frontends: int
) -> tuple[str, ...]:
    """A server that reads the chat template, which nobody writes.

    Without a template it gets a signal instead, when its engine starts.
    """
    return command(
        directory,
        is_told_to_stop=template is None,
        http_port=0,
        health_port=0,
        grace_s=600.0,
        drain_s=600.0,
        frontends=frontends,
        chat_templates=[str(template)] if template is not None else [],
    )


@contextmanager
def being_read(path: Path) -> Iterator[None]:
    """Waits until somebody reads a pipe, who gets nothing inside."""
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(path.open, "w")
        try:
            with opened.result(60):
                yield
        finally:  # the thread goes on if nobody came
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jinja"
    os.mkfifo(path)
    return path


@BOTH
@pytest.mark.parametrize("frontends", [1, 2])
def test_a_server_whose_front_ends_start_takes_them_along(
    letters_dir: Path, template: Path, number: signal.Signals, frontends: int
) -> None:
    with (
        started(*starting(letters_dir, template, frontends=frontends)) as process,
        being_read(template),
    ):
        fronts = psutil.Process(process.pid).children()
        assert len(fronts) == frontends
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -number
        gone, alive = psutil.wait_procs(fronts, timeout=30)
        assert (len(gone), alive) == (frontends, [])


@BOTH
def test_a_server_without_front_ends_ends_while_it_starts(
    letters_dir: Path, template: Path, number: signal.Signals
) -> None:
    with (
        started(*starting(letters_dir, template, frontends=0)) as process,
        being_read(template),
    ):
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -number


@pytest.mark.parametrize("frontends", [0, 2])
def test_a_signal_just_before_requests_are_served_is_not_drained(
    letters_dir: Path, frontends: int
) -> None:
    with started(*starting(letters_dir, None, frontends=frontends)) as process:
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -signal.SIGTERM


@BOTH
def test_mell_serve_ends_while_it_loads(number: signal.Signals) -> None:
    command = (sys.executable, "-m", "mell_jax.launch", "--port=0")
    with started(*command, "--log_format=json") as process:
        assert process.stderr is not None
        assert '"event": "starting"' in process.stderr.readline()
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -number


def may_unshare() -> bool:
    try:
        done = subprocess.run([*NEW_PIDS, "true"], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="cannot make a namespace of processes")
@pytest.mark.parametrize("frontends", [0, 1])
def test_the_first_process_of_a_container_ends_too(
    letters_dir: Path, template: Path, frontends: int
) -> None:
    with (
        started(
            *NEW_PIDS, *starting(letters_dir, template, frontends=frontends)
        ) as process,
        being_read(template),
    ):
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 128 + signal.SIGTERM
