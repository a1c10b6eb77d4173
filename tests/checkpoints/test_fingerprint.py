"""A fingerprint tells checkpoints apart and is the same wherever they lie."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mell_jax.model_files.fingerprint import fingerprint_of

BIG = 3 * 1024 * 1024


def write(directory: Path, *, seed: int = 0) -> Path:
    """A checkpoint that is random, as large as is sampled and not read as a whole."""
    directory.mkdir(parents=True)
    weights = np.random.default_rng(seed).bytes(BIG)
    (directory / "config.json").write_text('{"hidden_size": 64}')
    (directory / "model.safetensors").write_bytes(weights)
    (directory / "orbax").mkdir()
    (directory / "orbax" / "d").write_bytes(b"inside")
    return directory


def test_a_copy_elsewhere_and_later_has_the_same(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    copy = Path(shutil.copytree(first, tmp_path / "b"))
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / "README.md").write_text("words")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").write_text("words")
    (copy / "gone").symlink_to(tmp_path / "nowhere")
    told = fingerprint_of(first)
    assert told == fingerprint_of(first) == fingerprint_of(copy)
    assert len(told) == 12 and int(told, 16) >= 0


def _change(directory: Path, name: str, *, at: int) -> None:
    with (directory / name).open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))


CHANGES: dict[str, Callable[[Path], object]] = {
    "its first byte": lambda d: _change(d, "model.safetensors", at=0),
    "its last byte": lambda d: _change(d, "model.safetensors", at=BIG - 1),
    "the configuration": lambda d: _change(d, "config.json", at=2),
    "a file in a folder": lambda d: _change(d, "orbax/d", at=0),
    "a name": lambda d: (d / "config.json").rename(d / "conf.json"),
    "one file more": lambda d: (d / "model-2.safetensors").write_bytes(b""),
    "its size": lambda d: os.truncate(d / "model.safetensors", BIG - 1),
    "other weights of the same shapes": lambda d: (d / "model.safetensors").write_bytes(
        np.random.default_rng(1).bytes(BIG)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_checkpoint_has_another(change: str, tmp_path: Path) -> None:
    directory = write(tmp_path / "a")
    before = fingerprint_of(directory)
    CHANGES[change](directory)
    assert fingerprint_of(directory) != before


def test_a_file_of_its_own_has_one(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    first = fingerprint_of(path)
    path.write_bytes(b"GGUG")
    assert fingerprint_of(path) != first
