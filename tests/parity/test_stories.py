"""A trained model of 260 thousand parameters tells the story that it is known for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.models.attention import causal_attention
from tests.parity.llama2c import read_llama2c


@pytest.fixture(scope="module")
def logits(data_dir):
    decoder = read_llama2c(data_dir / "models" / "stories260K.bin")

    @jax.jit
    def run(ids):  # [T] -> [T, V]
        positions = jnp.arange(ids.shape[0])[None]
        hidden, _ = decoder(ids[None], positions, None, causal_attention)
        return decoder.logits(hidden)[0]

    return run


def test_logits_agree_with_a_float64_computation(data_dir, logits):
    path = data_dir / "models" / "stories260K_logits32_f64.npz"
    with np.load(path, allow_pickle=False) as golden:
        found = np.asarray(logits(golden["ids"].astype(np.int32)))
        expected = golden["logits"]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    assert np.abs(found - expected).max() < 1e-4


def test_greedy_ids_are_the_published_story(data_dir, logits):
    path = data_dir / "models" / "stories260K_golden.json"
    golden = json.loads(path.read_text())["greedy_ids"]
    assert len(golden) == 257
    chosen = np.asarray(logits(np.array(golden, np.int32))).argmax(-1)
    assert chosen[:-1].tolist() == golden[1:]  # by induction: step by step the same
