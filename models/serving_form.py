"""Puts a decoder's weights into the form in which a device multiplies by them fastest.

A checkpoint has a matrix for each linear map. Serving, maps of one input may be one
product, which reads it once, and a matrix may be kept the other way round:

    q_proj, k_proj, v_proj     [in, out]  ->  qkv_proj      [in, q + k + v]
    gate_proj, up_proj         [in, out]  ->  gate_up_proj  [in, gate + up]
    each of these and others   [in, out]  ->                [out, in]

What a decoder computes stays the same but for rounding.
"""

from dataclasses import dataclass

from flax import nnx

from mell_jax.models.decoder import Decoder
from mell_jax.models.linear import turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingForm:
    """The form that matrices have; that of a checkpoint by default."""

    is_joined: bool = False  # maps of one input are one product
    is_turned: bool = False  # [out, in]


def to_serving_form(decoder: Decoder, *, form: ServingForm) -> None:
    """Changes the linear maps of a decoder in place, layer by layer."""
    if form.is_joined:
        for block in decoder.layers:
            block.attention.join()
            block.mlp.join()
    if form.is_turned:
        for _, module in nnx.iter_graph(decoder):
            if isinstance(module, nnx.Linear):
                turn(module)
