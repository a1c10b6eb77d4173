"""A disk that is full costs no stream, and no process: what is said there is lost.

log, compiled programs, sockets     on a small disk, which is filled up
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.clients import Wave
from tests.hosts.processes import wait_for
from tests.hosts.proof import WANTED, ask_undisturbed, check_rest, check_same, disturb
from tests.hosts.real_hosts import real_fleet

FULL = Path("/dev/full")  # takes nothing


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, and small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a disk of its own needs root, who may mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_costs_no_stream_and_no_process(disk: Path, cache: Path) -> None:
    """Whatever has to start meanwhile does, too, and serves."""
    if cache.exists():
        shutil.copytree(cache, disk / "compiled")
    with real_fleet(disk, cache=disk / "compiled", far=False) as fleet:
        undisturbed = ask_undisturbed(fleet)
        fill(disk / "full")
        fill(fleet.log)  # its last page, too

        def kill_hosts() -> None:  # streams go on where one has started again
            fleet.hit("a", with_signal=signal.SIGKILL)
            fleet.hit("b", with_signal=signal.SIGKILL)

        disturb(fleet, undisturbed, by=kill_hosts)
        disturb(
            fleet,
            undisturbed,
            by=lambda: fleet.hit("controller", with_signal=signal.SIGKILL),
        )
        killed = fleet.hit("front end", with_signal=signal.SIGKILL)
        assert wait_for(
            lambda: fleet.pids().get("front end", killed) != killed, most_s=60.0
        )
        assert wait_for(fleet.is_up, most_s=60.0)
        check_same(Wave(fleet.http, WANTED).end(), undisturbed)
        check_rest(fleet)
        assert is_full(disk)
        assert not fleet.end()


def fill(path: Path) -> None:
    """Has a file grow until its disk is full."""
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def is_full(disk: Path) -> bool:
    """Tells whether nothing can be written to a disk."""
    try:
        (disk / "more").write_bytes(b"more")
    except OSError as error:
        return error.errno == errno.ENOSPC
    return False


@pytest.mark.skipif(not FULL.exists(), reason="this machine has no /dev/full")
def test_what_cannot_be_written_is_lost_and_the_process_goes_on() -> None:
    code = (
        "from mell_jax.console import leave, say\n"
        "say('where it serves')\n"
        "say('why it ends', to_error=True)\n"
        "leave(7)"
    )
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=full, check=False
        )
    assert done.returncode == 7
