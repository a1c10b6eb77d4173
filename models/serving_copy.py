"""Copies a module that is in memory, so that it can be served in another precision."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.models.servable import ServableModel


def serving_copy(module: ServableModel, *, dtype: npt.DTypeLike) -> ServableModel:
    """Returns a module that computes what `module` does, with arrays of its own.

    It is split and merged as it is, so that subclasses and changed attributes count.
    Every `nnx.Param` of floating point is cast to `dtype`; what is no parameter stays
    as it is. A layer that computes in the type of its parameters (as Flax's do whose
    `dtype` is their `param_dtype`) goes on to do so. Dropout and the like are switched
    off, as `module.eval()` does.
    """
    graphdef, state = nnx.split(module)
    flat = [(path, _copy(leaf, np.dtype(dtype))) for path, leaf in _leaves(state)]
    copy: Any = nnx.merge(graphdef, nnx.from_flat_state(flat))
    copy.eval()
    for _, part in list(nnx.iter_modules(copy)):
        _follow(part, np.dtype(dtype))
    served: ServableModel = copy
    return served


def _leaves(state: nnx.State[Any, Any]) -> list[tuple[Any, Any]]:
    return list(nnx.to_flat_state(state))


def _copy(leaf: Any, dtype: np.dtype[Any]) -> Any:
    """Copies a variable, or an array that is none."""
    if not isinstance(leaf, nnx.Variable):
        return jnp.copy(leaf)
    value = leaf.get_value()
    is_cast = isinstance(leaf, nnx.Param) and jnp.issubdtype(value.dtype, jnp.floating)
    kept = jnp.array(value, dtype, copy=True) if is_cast else jnp.copy(value)
    return leaf.replace(kept)


def _follow(part: nnx.Module, dtype: np.dtype[Any]) -> None:
    """Tells a layer the new type of its parameters, if it computed in the old one."""
    types = vars(part)
    if "dtype" not in types or "param_dtype" not in types:
        return
    computed, stored = types["dtype"], types["param_dtype"]
    if not jnp.issubdtype(stored, jnp.floating):
        return
    is_same = computed is not None and np.dtype(computed) == np.dtype(stored)
    for name in ("dtype", "param_dtype") if is_same else ("param_dtype",):
        setattr(part, name, dtype)
