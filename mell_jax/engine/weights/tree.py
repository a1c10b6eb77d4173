"""Reads any tree of parameters as arrays by name: "layers.0.mlp.up_proj.kernel".

nnx.State, nnx.Module     {"layers": {0: {"mlp": {"up_proj": {"kernel": Param}}}}}
nested dictionaries       the same with arrays; lists count from 0
flat ones                 "layers.0.mlp.up_proj.kernel", or ("layers", 0, "mlp", ...)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from mell_jax.checkpoints.orbax import ROOTS

Array = jax.Array | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A source of weights has these arrays."""

    arrays: Mapping[str, Array]
    is_lora: bool = False  # nothing but parameters of LoRA

    def below(self, names: frozenset[str]) -> "SourceTree":
        """Returns the part of it that has some of `names`: all, or under "params"."""
        for root in (".".join(root) for root in ROOTS):
            start = f"{root}." if root else ""
            found = {
                name.removeprefix(start): array
                for name, array in self.arrays.items()
                if name.startswith(start)
            }
            if not names.isdisjoint(found):
                return SourceTree(arrays=found, is_lora=self.is_lora)
        return self


def read_tree(source: Any) -> SourceTree:
    """Returns the arrays of a source; random keys and counts are left out.

    Raises:
      TypeError: it is no tree of arrays.
      ValueError: two arrays have one name, or one was deleted.
    """
    if isinstance(source, nnx.Module):
        source = nnx.state(source)
    if not isinstance(source, Mapping):
        raise TypeError(
            "weights come from an nnx.State, an nnx.Module, a dictionary of arrays or "
            f"the path of a checkpoint, got {type(source).__name__}"
        )
    arrays: dict[str, Array] = {}
    kinds = set()
    for path, leaf in _leaves(source, ()):
        if isinstance(leaf, nnx.RngState):
            continue
        kinds.add(isinstance(leaf, nnx.LoRAParam))
        name = ".".join(map(str, path)).removesuffix(".value")
        value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        if name in arrays:
            raise ValueError(f"two arrays of the new weights are called {name}")
        arrays[name] = _array(name, value)
    return SourceTree(arrays=arrays, is_lora=kinds == {True})


def _leaves(tree: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, inner in tree.items():
            yield from _leaves(inner, (*path, *(_steps(key))))
    elif isinstance(tree, list | tuple):
        for number, inner in enumerate(tree):
            yield from _leaves(inner, (*path, number))
    elif tree is not None:
        yield path, tree


def _steps(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _array(name: str, value: Any) -> Array:
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} of the new weights is a {type(value).__name__}; it must be an "
            "array of jax or NumPy"
        )
    if isinstance(value, jax.Array) and value.is_deleted():
        raise ValueError(
            f"{name} of the new weights was deleted or donated to a jitted function: "
            "give the arrays that it returned"
        )
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise ValueError(
            f"{name} of the new weights is in part on devices of another process: "
            "gather it in this one, or save a checkpoint and give its path"
        )
    if isinstance(value, jax.Array) and value.weak_type:
        return value.astype(value.dtype)
    return value
