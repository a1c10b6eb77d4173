"""What a module must have before anything is compiled, and what it is told it lacks."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mell_jax.models.config import NormConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.norm import Norm
from mell_jax.models.servable import check_servable
from mell_jax.models.serving_copy import serving_copy
from mell_jax.models.uniform import uniform_config

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
CONFIG = uniform_config(**SIZES)


class Adapter(nnx.Module):
    """Says that it is something else than the decoder in it."""

    def __init__(self, **changes):
        self.inner = Decoder(CONFIG, rngs=nnx.Rngs(3))
        self.config = uniform_config(**{**SIZES, **changes})

    def __call__(self, tokens, positions, cache, attend):
        return self.inner(tokens, positions, cache, attend)

    def logits(self, hidden):
        return self.inner.logits(hidden)


def test_a_decoder_and_an_adapter_of_one_are_servable() -> None:
    check_servable(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    check_servable(Adapter())
    check_servable(Decoder(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))


class Empty(nnx.Module):
    """Has nothing that a served model needs."""


class Foreign(nnx.Module):
    """Has a config as other libraries' models do."""

    def __init__(self):
        self.config = SimpleNamespace(num_layers=2)

    def __call__(self, tokens):
        return tokens

    def logits(self, hidden):
        return hidden


def test_everything_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(TypeError) as error:
        check_servable(Empty())
    assert str(error.value) == (
        "Empty is no ServableModel (mell_jax.models.servable): it lacks an attribute "
        "config, a mell_jax.models.config.ModelConfig with its sizes; and "
        "__call__(tokens, positions, cache, attend) -> (hidden, cache); and "
        "logits(hidden), which returns scores of the next token. Give it these, or "
        "serve a small module that has them and calls this one"
    )


def test_a_config_of_another_library_is_no_config() -> None:
    with pytest.raises(TypeError, match=r"it lacks an attribute config, a [^;]*$"):
        check_servable(Foreign())


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"is an nnx.Module, got dict"):
        check_servable({"embed": jnp.ones(3)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"head_dim": 64},
            r"Adapter: queries of 8 tokens have the shape \[8, 2, 32\], but its config "
            r"makes it \[8, 2, 64\]",
        ),
        ({"num_heads": 4}, r"queries .* makes it \[8, 4, 32\]"),
        ({"num_kv_heads": 2}, r"keys .* \[8, 1, 32\], but .* \[8, 2, 32\]"),
        ({"vocab_size": 65}, r"logits .* \[8, 64\], but .* \[8, 65\]"),
        ({"num_layers": 3}, r"called for the layers \[0, 1\], but its config has 3;"),
        ({"num_layers": 1}, r"called for the layers \[0, 1\], but its config has 1;"),
        ({"windows": (4, None)}, "layer 0 attends with the window None, .* says 4"),
    ],
)
def test_sizes_that_are_not_those_of_the_module_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_servable(Adapter(**changes))


def narrow(attention, **changes):
    attention.layer = dataclasses.replace(attention.layer, **changes)


def test_a_narrower_window_than_the_config_says_is_allowed() -> None:
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(0))
    narrow(decoder.layers[0].attention, window=2)
    check_servable(decoder)


def test_a_layer_that_attends_twice_is_refused() -> None:
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(0))
    narrow(decoder.layers[1].attention, index=0)
    with pytest.raises(ValueError, match=r"for the layers \[0, 0\]"):
        check_servable(decoder)


class Mixed(nnx.Module):
    """Parameters of several kinds, and layers that compute in types of their own."""

    def __init__(self, rngs):
        self.follows = nnx.Linear(2, 2, dtype=jnp.float32, rngs=rngs)
        self.promotes = nnx.LoRALinear(2, 2, lora_rank=1, rngs=rngs)
        self.norm = Norm((2,), config=NormConfig(), dtype=jnp.float32)
        self.insists = nnx.Linear(2, 2, dtype=jnp.float16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.codes = nnx.Param(jnp.ones(3, jnp.int8))
        self.table = nnx.Variable(jnp.ones(3))
        self.raw = nnx.data(jnp.ones(3))


def test_only_parameters_are_cast_and_layers_follow_theirs() -> None:
    module = Mixed(nnx.Rngs(0))
    copy = serving_copy(module, dtype=jnp.bfloat16)  # type: ignore[arg-type]
    assert type(copy) is Mixed
    half = jnp.bfloat16
    assert copy.follows.kernel.dtype == copy.promotes.lora.lora_a.dtype == half
    assert (copy.follows.dtype, copy.promotes.dtype) == (half, None)
    assert (copy.insists.dtype, copy.insists.kernel.dtype) == (jnp.float16, half)
    assert copy.norm.scale.dtype == copy.norm.dtype == half
    assert copy.codes.dtype == jnp.int8
    assert copy.table.dtype == copy.raw.dtype == jnp.float32
    assert copy.dropout.deterministic
    assert copy.dropout.rngs.key.get_value() == module.dropout.rngs.key.get_value()
    # The module stays as it is.
    assert module.follows.kernel.dtype == module.follows.dtype == jnp.float32
    assert not module.dropout.deterministic


def test_a_copy_outlives_the_arrays_of_its_module() -> None:
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(0))
    copy = serving_copy(decoder, dtype=jnp.float32)
    expected = jnp.array(decoder.embed.embedding[...], copy=True)
    for leaf in jax.tree.leaves(nnx.state(decoder)):
        leaf.delete()  # as a training step does that donates them
    assert isinstance(copy, Decoder)
    assert (copy.embed.embedding[...] == expected).all()
