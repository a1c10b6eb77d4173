"""The sampler that rollouts are compared with says what the plain model says."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.rl.scan_sampler import make_scan_sampler, pad_left
from mell_jax.bench.shapes import SHAPES
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

NEW_TOKENS = 6
LENGTH = 16  # holds every prompt with its answer


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """A tiny model with several queries to a KV head, and logits that are far apart."""
    made = Decoder(SHAPES["tiny"], rngs=nnx.Rngs(3))
    for _, weight in nnx.to_flat_state(nnx.state(made, nnx.Param)):
        weight[...] *= 3.0
    return made


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.int32) for size in (1, 9, 4)]


@pytest.fixture(scope="module")
def plain_scores(decoder) -> Callable[[list[int]], np.ndarray]:
    """Returns logits behind every token of a sequence, without any cache."""
    graphdef, state = nnx.split(decoder)

    @jax.jit
    def forward(tokens: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, state)
        positions = jnp.arange(LENGTH, dtype=jnp.int32)
        hidden, _ = merged(tokens, positions, None, causal_attention)
        return merged.logits(hidden)

    def scores(ids: list[int]) -> np.ndarray:
        padded = np.zeros(LENGTH, np.int32)
        padded[: len(ids)] = ids
        return np.asarray(forward(padded), np.float64)[: len(ids)]

    return scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_greedy_tokens_are_those_of_a_forward_pass_without_a_cache(
    decoder, prompts, plain_scores
):
    sample = make_scan_sampler(
        decoder, batch=3, prompt_tokens=9, new_tokens=NEW_TOKENS, temperature=0.0
    )
    tokens, logprobs = (np.asarray(column) for column in sample(prompts, 0))
    assert tokens.shape == logprobs.shape == (3, NEW_TOKENS)
    for prompt, answer, given in zip(prompts, tokens, logprobs, strict=True):
        scores = plain_scores([*prompt, *answer])[len(prompt) - 1 : -1]
        assert answer.tolist() == scores.argmax(axis=-1).tolist()
        expected = log_softmax(scores)[np.arange(NEW_TOKENS), answer]
        np.testing.assert_allclose(given, expected, atol=1e-4)


def test_log_probabilities_are_of_the_temperature(decoder, prompts, plain_scores):
    sample = make_scan_sampler(
        decoder, batch=3, prompt_tokens=12, new_tokens=2, temperature=2.0
    )
    one, other = sample(prompts, 1), sample(prompts, 2)
    assert (one.tokens != other.tokens).any()
    for prompt, answer, given in zip(prompts, *map(np.asarray, one), strict=True):
        scores = plain_scores([*prompt, *answer])[len(prompt) - 1 : -1]
        expected = log_softmax(scores / 2.0)[np.arange(2), answer]
        np.testing.assert_allclose(given, expected, atol=1e-4)


def test_prompts_end_in_the_same_column():
    tokens, pads = pad_left([np.array([7]), np.array([1, 2, 3])], length=3)
    assert tokens.tolist() == [[0, 0, 7], [1, 2, 3]]
    assert pads.tolist() == [2, 0]


@pytest.mark.parametrize("option", [{"window": 4}, {"soft_cap": 30.0}])
def test_windows_and_soft_caps_are_refused(option):
    shape = uniform_config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    (layer,) = shape.layers
    attention = dataclasses.replace(layer.attention, **option)
    layers = (dataclasses.replace(layer, attention=attention),)
    odd = Decoder(dataclasses.replace(shape, layers=layers), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="windows nor soft caps"):
        make_scan_sampler(odd, batch=1, prompt_tokens=4, new_tokens=2, temperature=1.0)
