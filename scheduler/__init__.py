"""The scheduler decides without devices: pages, prefix cache, batches and placement."""

if __name__ != "mell_jax.scheduler":
    raise ImportError(
        "import mell_jax.scheduler, not scheduler: it is part of mell_jax"
    )
