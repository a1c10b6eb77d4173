"""Reads what a model says about itself, whatever format it is in."""

from pathlib import Path

from mell_jax.checkpoints import hf_config
from mell_jax.checkpoints.gguf import (
    gguf_in,
    open_gguf,
    read_gguf_ends,
    read_gguf_spec,
)
from mell_jax.checkpoints.hf_config import CheckpointSpec


def read_spec(model: Path) -> CheckpointSpec:
    """Returns the `CheckpointSpec` of a model directory or a GGUF file.

    Raises:
      CheckpointError: naming the file, the key and what is supported.
    """
    path = gguf_in(model)
    if path is None:
        return hf_config.read_spec(model)
    return read_gguf_spec(open_gguf(path))


def read_eos_ids(model: Path) -> tuple[int, ...]:
    """Returns the tokens that end a text, by the files of a model; () for none.

    Raises:
      CheckpointError: a file is not as it should be.
    """
    path = gguf_in(model)
    if path is None:
        return hf_config.read_eos_ids(model)
    return read_gguf_ends(path)
