"""Hides what Pallas calls differently from one supported jax to the next."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

_IS_OLD = jax.__version_info__ < (0, 11)


def transposed(ref: Any) -> Any:
    """Returns a view of a matrix in shared memory, rows and columns exchanged."""
    return plgpu.transpose_ref(ref, (1, 0)) if _IS_OLD else ref.transpose((1, 0))


def interpreting(interpret: Any) -> dict[str, Any]:
    """Returns what `plgpu.kernel` takes for `interpret`: a bool, or the parameters.

    Before 0.11 nothing can be interpreted; `attention.backends` refuses it.
    """
    if interpret is False:
        return {}
    return {"interpret": plgpu.InterpretGPUParams() if interpret is True else interpret}  # type: ignore[attr-defined,unused-ignore]


def load_shared(ref: Any, *, layout: Any) -> jax.Array:
    """Returns a matrix in shared memory, in registers of this layout."""
    index = ((),) if _IS_OLD else ()
    loaded: jax.Array = plgpu.load(ref, *index, layout=layout)
    return loaded
