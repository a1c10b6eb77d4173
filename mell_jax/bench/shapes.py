"""A model to measure is a directory, the demo, or random weights of a known shape."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from flax import nnx

from mell_jax.checkpoints import save_hf
from mell_jax.engine.build import demo_directory
from mell_jax.engine.config import DEMO
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

RANDOM = "random:"

SHAPES = {
    "110m": uniform_config(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_layers=12,
        num_heads=12,
        num_kv_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
    ),
    "30m": uniform_config(  # a step of 16 rows takes tens of milliseconds on a CPU
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
    ),
    "demo": uniform_config(  # of the model that ships with the package
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_embeddings=True,
    ),
    "long": uniform_config(  # quick for its context; a page is 64 KiB in float32
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_layers=4,
        num_heads=2,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
    ),
    "quick": uniform_config(  # computes next to nothing, for devices of a given pace
        vocab_size=256,
        hidden_size=32,
        intermediate_size=32,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=16384,
    ),
    "tiny": uniform_config(  # for trying the programs out
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=256,
    ),
}


@contextlib.contextmanager
def model_directory(model: str) -> Iterator[Path]:
    """Yields the directory of `model`; random weights get one until the end of the
    block.

    Args:
      model: a path, "demo", or "random:SHAPE" with a shape of `SHAPES`.

    Raises:
      ValueError: there is no such shape, or the demo model is missing.
    """
    if model == DEMO:
        directory = demo_directory()
        if not directory.is_dir():
            raise ValueError(
                "the demo model is not installed: give --model=random:demo for one "
                "of its shape with random weights"
            )
        yield directory
    elif model.startswith(RANDOM):
        config = _shape(model.removeprefix(RANDOM))
        with tempfile.TemporaryDirectory(prefix="mell-bench-") as folder:
            # Random weights never choose to end: there is no end of sequence.
            save_hf(Path(folder), decoder=Decoder(config, rngs=nnx.Rngs(0)))
            yield Path(folder)
    else:
        yield Path(model)


def count_parameters(config: ModelConfig) -> int:
    """Returns weights of a decoder of this shape."""
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(abstract, nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _shape(name: str) -> ModelConfig:
    if name not in SHAPES:
        raise ValueError(
            f"there is no shape {name!r}: --model=random:SHAPE knows "
            f"{', '.join(sorted(SHAPES))}"
        )
    return SHAPES[name]
