import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.serving_form import ServingForm, to_serving_form
from mell_jax.models.uniform import uniform_config

FORMS = [
    ServingForm(is_joined=joined, is_turned=turned)
    for joined in (False, True)
    for turned in (False, True)
]
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def make_decoder(**changes: bool) -> Decoder:
    config = uniform_config(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        max_position_embeddings=32,
        **changes,
    )
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    for _, parameter in nnx.to_flat_state(nnx.state(decoder)):  # biases, too
        parameter[...] = 0.1 * jax.random.normal(next(keys), parameter.shape)
    return decoder


def logits(decoder: Decoder) -> np.ndarray:
    positions = jnp.arange(TOKENS.shape[1])[None]
    hidden, _ = decoder(TOKENS, positions, None, causal_attention)
    return np.asarray(decoder.logits(hidden))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "mlp_bias": True},
        {"has_qk_norm": True, "output_bias": True},
    ],
    ids=["plain", "input biases", "head norms"],
)
def test_a_decoder_computes_the_same_in_every_form(
    changes: dict[str, bool], form: ServingForm
) -> None:
    decoder = make_decoder(**changes)
    expected = logits(decoder)
    to_serving_form(decoder, form=form)
    np.testing.assert_allclose(logits(decoder), expected, rtol=2e-4, atol=2e-4)


def test_joined_and_turned_matrices_are_those_of_the_maps() -> None:
    decoder = make_decoder()
    mlp = decoder.layers[1].mlp
    gate, up = np.asarray(mlp.gate_proj.kernel), np.asarray(mlp.up_proj.kernel)
    to_serving_form(decoder, form=ServingForm(is_joined=True, is_turned=True))
    assert mlp.gate_up_proj is not None
    kernel = np.asarray(mlp.gate_up_proj.linear.kernel)
    np.testing.assert_array_equal(kernel[:24].T, gate)
    np.testing.assert_array_equal(kernel[24:].T, up)


def test_a_decoder_without_values_takes_a_form_too() -> None:
    def shaped() -> Decoder:
        decoder = make_decoder()
        to_serving_form(decoder, form=ServingForm(is_joined=True))
        return decoder

    attention = nnx.eval_shape(shaped).layers[0].attention
    assert attention.qkv_proj is not None
    assert attention.qkv_proj.linear.kernel.shape == (16, 128 + 64 + 64)
    assert not hasattr(attention, "q_proj")
