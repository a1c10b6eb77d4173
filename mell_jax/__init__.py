"""A JAX engine for large language models that moves requests between devices."""
