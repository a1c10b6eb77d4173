"""A recipe says how one array is made of others: a traced function, cut down to it.

    formed(q, k, v, o)  ->  qkv = concatenate q k v,  o      traced once, as a whole
    recipe of qkv:  (q, k, v) -> concatenate q k v           what this output needs
    recipe of o:    (o,) -> o                                as it is

Whatever a function does to a model's parameters, nobody lists it a second time. Layers
that are alike have equal recipes, so that they share what is compiled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe makes one array; recipes of one text do the same."""

    inputs: tuple[int, ...]  # which of the function's arguments it takes
    text: str  # of its steps; empty where the one input is taken as it is
    make: Callable[..., jax.Array]  # of those arguments

    @property
    def is_identity(self) -> bool:
        return not self.text


def recipes_of(
    function: Callable[..., Sequence[Any]], arguments: Sequence[Any]
) -> list[Recipe]:
    """Returns how each of a function's results is made; nothing is computed.

    Args:
      function: of arrays, to a sequence of arrays.
      arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr = closed.jaxpr
    numbers = {var: number for number, var in enumerate(jaxpr.invars)}
    makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    places = {id(eqn): place for place, eqn in enumerate(jaxpr.eqns)}
    consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))

    def recipe(out: Any) -> Recipe:
        if out in numbers:
            return Recipe(inputs=(numbers[out],), text="", make=_same)
        needed = _needed(out, makers)
        eqns = sorted(needed, key=lambda eqn: places[id(eqn)])
        used = {var for eqn in eqns for var in eqn.invars if _is_var(var)}
        inputs = [var for var in jaxpr.invars if var in used]
        bound = [var for var in jaxpr.constvars if var in used]
        cut = core.Jaxpr(bound, inputs, [out], eqns, debug_info=jaxpr.debug_info)
        whole = core.ClosedJaxpr(cut, [consts[var] for var in bound])
        run = core.jaxpr_as_fun(whole)
        return Recipe(
            inputs=tuple(numbers[var] for var in inputs),
            text=str(cut) + "".join(map(_told, whole.consts)),
            make=lambda *arrays: run(*arrays)[0],
        )

    return [recipe(out) for out in jaxpr.outvars]


def _needed(out: Any, makers: dict[Any, Any]) -> list[Any]:
    """Returns the steps that `out` comes from, each once."""
    found: dict[int, Any] = {}
    open_vars = [out]
    while open_vars:
        eqn = makers.get(open_vars.pop())
        if eqn is not None and id(eqn) not in found:
            found[id(eqn)] = eqn
            open_vars += [var for var in eqn.invars if _is_var(var)]
    return list(found.values())


def _is_var(var: object) -> bool:
    return isinstance(var, core.Var)


def _told(const: Any) -> str:
    """Names a constant by itself: who has another array has another recipe."""
    return f" {id(const)}"


def _same(array: jax.Array) -> jax.Array:
    return array
