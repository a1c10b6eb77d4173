"""Programs that were cut short on disk go; whole ones stay, and are read once."""

import os
import time
import warnings
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from mell_jax.worker.compilation import keep_programs
from mell_jax.worker.cut_programs import LOOKED, is_cut, remove_cut_programs

WHOLE = zlib.compress(bytes(range(256)) * 99)


@pytest.mark.parametrize(
    ("program", "is_so"),
    [
        (b"", True),
        (WHOLE, False),
        (WHOLE[:-1], True),
        (WHOLE[:1], True),
        (WHOLE[:50] + bytes(50), True),
        (b"\x28\xb5\x2f\xfd and so on", False),  # of zstandard, which is not read
    ],
)
def test_a_beginning_is_told_from_a_whole(program: bytes, is_so: bool) -> None:
    assert is_cut(program) is is_so


def test_what_was_cut_goes_and_all_else_stays(tmp_path: Path) -> None:
    (tmp_path / "a-cache").write_bytes(WHOLE)
    (tmp_path / "b-cache").write_bytes(WHOLE[:-9])
    (tmp_path / "notes").write_bytes(b"")
    assert remove_cut_programs(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a-cache", "notes", LOOKED}
    assert remove_cut_programs(tmp_path) == 0


def test_what_is_older_than_the_last_look_is_not_read_again(tmp_path: Path) -> None:
    remove_cut_programs(tmp_path)
    for name, age_s in (("new", 0), ("old", 3600)):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"")
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    assert remove_cut_programs(tmp_path) == 1
    assert (tmp_path / "old-cache").exists()


def test_a_program_that_was_cut_is_kept_again(tmp_path: Path) -> None:
    def start() -> None:
        """Compiles a new function, of which this process has kept nothing."""
        with keep_programs(str(tmp_path), is_optional=False, is_shared=False):
            jax.jit(lambda x: x * 3 + 1)(np.ones(7, np.float32))

    start()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*-cache")}
    assert kept
    for path, program in kept.items():
        path.write_bytes(program[: len(program) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of what it cannot read
        start()
    assert set(tmp_path.glob("*-cache")) == kept.keys()
    assert not any(is_cut(path.read_bytes()) for path in kept)
