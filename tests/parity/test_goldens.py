"""Our decoder against what transformers computed with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.checkpoints import load_model
from mell_jax.models.attention import causal_attention
from tests.parity.tiny_models import (
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    families,
    load_golden,
    prompt,
    write_hf,
)

LONGEST = max(PROMPT_TOKENS) + GREEDY_TOKENS


@pytest.fixture(scope="module", params=sorted(families()))
def tiny(request, tmp_path_factory):
    """The golden of a family, and a function from ids [T] to logits [T, V].

    It is compiled once, for the longest: what follows is masked, attention is causal.
    """
    directory = tmp_path_factory.mktemp(request.param)
    write_hf(directory, families()[request.param])
    model = load_model(
        directory,
        dtype=jnp.float32,
        sharding_for=lambda *_: jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        context_tokens=LONGEST,
    )

    @jax.jit
    def compute(ids):  # [LONGEST]
        decoder = nnx.merge(model.graphdef, model.state)
        positions = jnp.arange(LONGEST)[None]
        hidden, _ = decoder(ids[None], positions, None, causal_attention)
        return decoder.logits(hidden)[0]

    def logits(ids):  # [T]
        padded = np.zeros(LONGEST, np.int32)
        padded[: len(ids)] = ids
        return np.asarray(compute(padded))[: len(ids)]

    return load_golden(request.param), logits


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_logits_of_a_prefill_and_of_each_decode_step_agree(tiny):
    golden, logits = tiny
    found = logits(np.concatenate([golden.prompt, golden.decoded]))
    prefill = found[: len(golden.prompt)]
    assert relative_error(prefill, golden.prefill_logits) < 1e-5
    decode = found[len(golden.prompt) :]
    for row, expected in zip(decode, golden.decode_logits, strict=True):
        assert relative_error(row, expected) < 1e-4


def test_greedy_ids_agree_for_prompts_of_mixed_lengths(tiny):
    golden, logits = tiny
    for length in PROMPT_TOKENS:
        # Feeds prompt and golden ids at once: by induction the same as step by step.
        chosen = logits([*prompt(length), *golden.greedy[length]]).argmax(-1)
        found = chosen[length - 1 : length - 1 + GREEDY_TOKENS]
        assert found.tolist() == golden.greedy[length].tolist()
