"""Flax NNX models are defined here and applied as pure functions."""

if __name__ != "mell_jax.models":
    raise ImportError("import mell_jax.models, not models: it is part of mell_jax")
