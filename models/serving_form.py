"""Puts a decoder's weights into the form in which a device multiplies by them fastest.

A checkpoint has a matrix for each linear map. Serving, maps of one input may be one
product, which reads it once, and a matrix may be kept the other way round:

    q_proj, k_proj, v_proj     [in, out]  ->  qkv_proj      [in, q + k + v]
    gate_proj, up_proj         [in, out]  ->  gate_up_proj  [in, gate + up]
    each of these and others   [in, out]  ->                [out, in]

What a decoder computes stays the same but for rounding.
"""

from dataclasses import dataclass
from typing import TypeGuard, cast

import jax
from flax import nnx

from mell_jax.models.attention import Attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.feed_forward import Mlp
from mell_jax.models.linear import turn
from mell_jax.models.servable import ServableModel

_OUTPUTS = ("o_proj", "down_proj")
_PRODUCT = jax.lax.dot_general


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingForm:
    """The form that matrices have; that of a checkpoint by default."""

    is_joined: bool = False  # maps of one input are one product
    is_turned: bool = False  # [out, in]


def to_serving_form(model: ServableModel, *, form: ServingForm) -> None:
    """Changes the linear maps of a model in place, part by part.

    Only those that nobody but our own code multiplies by: in `Attention` and `Mlp`,
    and the head of a `Decoder`. What is of another class, also of one derived from
    these, stays as it is.
    """
    modules = nnx.iter_modules(cast("nnx.Module", model))
    parts = [part for _, part in modules if _is_ours(part)]
    if form.is_joined:
        for part in parts:
            part.join()
    if form.is_turned:
        for part in parts:
            for _, inner in nnx.iter_modules(part):
                if type(inner) is nnx.Linear:
                    turn(inner)
        head = model.lm_head if type(model) is Decoder else None
        if head is not None and _is_plain(head):
            turn(head)


def _is_ours(part: nnx.Module) -> TypeGuard[Attention | Mlp]:
    """Tells whether a part is one of ours and nothing in it was replaced."""
    if type(part) not in (Attention, Mlp):
        return False
    maps = {
        name: inner
        for name, inner in nnx.iter_children(part)
        if str(name).endswith("_proj")
    }
    of_input = [one for name, one in maps.items() if name not in _OUTPUTS]
    return all(map(_is_plain, maps.values())) and (
        len({(one.dtype, one.param_dtype) for one in of_input}) == 1
    )


def _is_plain(linear: object) -> bool:
    return type(linear) is nnx.Linear and linear.dot_general is _PRODUCT
