"""Copies a module that is in memory, so that it can be served in another precision."""

from collections.abc import Iterator
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.models.servable import ServableModel


def serving_copy(module: ServableModel, *, dtype: npt.DTypeLike) -> ServableModel:
    """Returns a module that computes what `module` does, with arrays of its own.

    It is split and merged as it is, so that subclasses and changed attributes count.
    Every `nnx.Param` of floating point is cast to `dtype`; what is no parameter stays
    as it is. A layer whose `dtype` is the type of its parameters goes on to compute in
    that type. Dropout and the like are switched
    off, as `module.eval()` does.
    """
    graphdef, state = nnx.split(module)
    flat = [(path, _copy(leaf, np.dtype(dtype))) for path, leaf in _leaves(state)]
    copy: Any = nnx.merge(graphdef, nnx.from_flat_state(flat))
    copy.eval()
    parts = zip(
        nnx.iter_modules(cast("nnx.Module", module)),
        list(nnx.iter_modules(copy)),
        strict=True,
    )
    for (_, given), (_, part) in parts:
        for name in _types_of(given):
            setattr(part, name, np.dtype(dtype))
    served: ServableModel = copy
    return served


def serving_view(module: ServableModel) -> ServableModel:
    """Returns a module of the same arrays, as `module.eval()` leaves it.

    The given one stays as it is. Whoever donates its arrays takes them from both.
    """
    view: Any = nnx.merge(*nnx.split(module))
    view.eval()
    served: ServableModel = view
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


def _types_of(part: nnx.Module) -> Iterator[str]:
    """Yields the attributes of a layer that name the type of its own parameters.

    Its `dtype`, in which it computes, is one of them unless it is another type.
    """
    stored = {
        np.dtype(value.dtype)
        for value in vars(part).values()
        if isinstance(value, nnx.Param) and jnp.issubdtype(value.dtype, jnp.floating)
    }
    for name in ("dtype", "param_dtype"):
        named = vars(part).get(name)
        if named is not None and {np.dtype(named)} == stored:
            yield name
