"""Parts of the library door, `mell_jax.llm`."""
