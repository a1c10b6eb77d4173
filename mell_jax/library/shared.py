"""Arrays that a trainer and an `LLM` share have one type."""

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.servable import ServableModel


def shared_type(module: ServableModel) -> str:
    """Returns the type of all floating parameters of a module, as `dtype` of an engine.

    Raises:
      ValueError: they are of several types, or of one that is not served.
    """
    parameters = jax.tree.leaves(nnx.state(module, nnx.Param))
    found: set[str] = {
        one.dtype.name for one in parameters if jnp.issubdtype(one.dtype, jnp.floating)
    }
    if len(found) != 1 or not found <= {"float32", "bfloat16"}:
        raise ValueError(
            "share=True serves parameters as they are: they must all be float32 or all "
            f"bfloat16, got {', '.join(sorted(found))}; let them be copied with "
            "share=False"
        )
    return found.pop()
