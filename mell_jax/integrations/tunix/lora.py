"""Adds pairs of LoRA to the weights that they belong to, as qwix computes with them.

    w = w + einsum(a, b) * alpha / rank      a [..., r], b [r, ...]

The pair of an einsum's weight may give its axes in another order than the weight has
them: qwix leaves a string that says in which, beside the weight's own.

Source: `qwix/_src/providers/lora.py` of google/qwix.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any, Self, final

import jax
import jax.numpy as jnp

Arrays = Mapping[str, jax.Array]
_A, _B = "_lora_a", "_lora_b"
_HOW = "_lora_einsum_str"


@final
class Adapters:
    """Adapters are all pairs of one actor; `merge` adds them where they lie."""

    def __init__(self, axes: Mapping[str, str | None], *, alpha: float) -> None:
        self._axes, self._alpha = axes, alpha
        self._programs: dict[Any, Any] = {}

    @classmethod
    def of(cls, actor: Any, arrays: Arrays, *, alpha: float | None) -> Self | None:
        """Returns those of an actor, None if it has none.

        Raises:
          ValueError: it has some, and no alpha is given.
        """
        names = [n.removesuffix(_A) for n in arrays if n.endswith(_A)]
        if not names:
            return None
        if alpha is None:
            raise ValueError(
                f"{type(actor).__name__} has {len(names)} pairs of LoRA, such as that "
                f"of {names[0]}, and does not say by how much they count: give the "
                "alpha of its LoraProvider, partial(MellRollout, lora_alpha=...)"
            )
        return cls({name: _axes_of(actor, name) for name in names}, alpha=alpha)

    def merge(self, arrays: Arrays) -> dict[str, jax.Array]:
        """Returns the arrays without pairs, each added to its weight.

        Compiled once for each way that weights lie on devices.
        """
        bases = {name: arrays[name] for name in self._axes}
        pairs = {name: (arrays[name + _A], arrays[name + _B]) for name in self._axes}
        shardings = {name: base.sharding for name, base in bases.items()}
        key = tuple(shardings.values())
        if key not in self._programs:
            self._programs[key] = jax.jit(self._merged, out_shardings=shardings)
        kept = {n: array for n, array in arrays.items() if not n.endswith((_A, _B))}
        merged: dict[str, jax.Array] = self._programs[key](bases, pairs)
        return kept | merged

    def _merged(
        self, bases: Arrays, pairs: Mapping[str, tuple[jax.Array, jax.Array]]
    ) -> dict[str, jax.Array]:
        merged = {}
        for name, base in bases.items():
            a, b = (half.astype(jnp.float32) for half in pairs[name])
            how = self._axes[name]
            delta = jnp.tensordot(a, b, 1) if how is None else jnp.einsum(how, a, b)
            added = delta.reshape(base.shape) * (self._alpha / a.shape[-1])
            merged[name] = (base.astype(jnp.float32) + added).astype(base.dtype)
        return merged


def _axes_of(actor: Any, name: str) -> str | None:
    """Returns "Dr,rNH->NDH", or None where the axes follow each other as they are."""
    *steps, weight = name.split(".")
    module = reduce(_step, steps, actor)
    how = getattr(module, weight + _HOW, None)
    own = getattr(module, "einsum_str", None)
    if how is None or own is None:
        return None
    _, a, b = how.replace(" ", "").partition("->")[0].split(",")
    _, w = own.replace(" ", "").partition("->")[0].split(",")
    return f"{a},{b}->{w}"


def _step(module: Any, name: str) -> Any:
    return module[int(name)] if name.isdigit() else getattr(module, name)
