"""Computes the feed-forward part of a layer, gated (arXiv 2002.05202) or plain."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.config import Activation, FeedForwardConfig
from mell_jax.models.linear import JoinedLinear, make_linear


def _gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=True)


def _relu_squared(x: jax.Array) -> jax.Array:
    return jnp.square(nnx.relu(x))


ACTIVATIONS: Mapping[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": nnx.silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu_squared": _relu_squared,
}


class Mlp(nnx.Module):
    """Computes down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate."""

    def __init__(
        self,
        config: FeedForwardConfig,
        *,
        width: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = config.activation

        def linear(width_in: int, width_out: int) -> nnx.Linear:
            return make_linear(
                width_in, width_out, has_bias=config.has_bias, dtype=dtype, rngs=rngs
            )

        self.gate_proj = linear(width, config.size) if config.is_gated else None
        self.up_proj = linear(width, config.size)
        self.gate_up_proj: JoinedLinear | None = nnx.data(None)  # in place of both
        self.down_proj = linear(config.size, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        if self.gate_up_proj is not None:
            gate, up = self.gate_up_proj(x)
            return self.down_proj(act(gate) * up)
        if self.gate_proj is not None:
            return self.down_proj(act(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(act(self.up_proj(x)))

    def join(self) -> None:
        """Makes the maps to gate and up one, where there is a gate."""
        if self.gate_proj is not None:
            self.gate_up_proj = JoinedLinear((self.gate_proj, self.up_proj))
            del self.gate_proj, self.up_proj
