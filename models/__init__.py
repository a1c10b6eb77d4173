"""Flax NNX model definitions, applied as pure functions."""

if __name__ != "mell_jax.models":
    raise ImportError(
        "import mell_jax.models, not models: the folder is part of mell_jax"
    )
