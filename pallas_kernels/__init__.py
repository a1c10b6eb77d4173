"""Attention over a paged KV pool, as plain JAX and as Pallas kernels."""

if __name__ != "mell_jax.pallas_kernels":
    raise ImportError(
        "import mell_jax.pallas_kernels, not pallas_kernels: it is part of mell_jax"
    )
