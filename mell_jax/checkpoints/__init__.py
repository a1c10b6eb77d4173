"""Reads models of Hugging Face, Orbax and GGUF, writes the former; trusts no file."""

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.hf_config import CheckpointSpec, split_ids
from mell_jax.checkpoints.hf_config_writer import spec_in_memory
from mell_jax.checkpoints.load import (
    LoadedModel,
    OpenModel,
    find_spec,
    load_model,
    open_model,
)
from mell_jax.checkpoints.model_spec import read_eos_ids, read_spec
from mell_jax.checkpoints.save import save_hf, save_orbax

__all__ = [
    "CheckpointError",
    "CheckpointSpec",
    "LoadedModel",
    "OpenModel",
    "find_spec",
    "load_model",
    "open_model",
    "read_eos_ids",
    "read_spec",
    "save_hf",
    "save_orbax",
    "spec_in_memory",
    "split_ids",
]
