"""The library serves a GGUF file by its path: weights, tokenizer, name and ends."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mell_jax.checkpoints import load_model
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.params import SamplingParams
from mell_jax.launch_server import served_model
from mell_jax.llm import LLM
from mell_jax.models.attention import causal_attention
from tests.checkpoints.gguf.tiny_gguf import VOCAB, write_gguf
from tests.checkpoints.tiny import on_one_device

TOKENS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR.!", "xy", "<|end|>"]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * (VOCAB - 1) + [3],
    "tokenizer.ggml.merges": ["x y"],
    "tokenizer.ggml.eos_token_id": VOCAB - 1,
}


def greedy(path, prompt_ids, *, count):
    """Without a cache, and without an engine."""
    model = load_model(path, dtype=jnp.float32, sharding_for=on_one_device)
    size = len(prompt_ids) + count

    @jax.jit
    def logits(state, tokens):
        decoder = nnx.merge(model.graphdef, state)
        positions = jnp.arange(size, dtype=jnp.int32)[None]
        hidden, _ = decoder(tokens[None], positions, None, causal_attention)
        return decoder.logits(hidden[0])

    ids = list(prompt_ids)
    while len(ids) < size:  # what comes after a position does not count there
        tokens = jnp.zeros(size, jnp.int32).at[: len(ids)].set(jnp.array(ids))
        ids.append(int(logits(model.state, tokens)[len(ids) - 1].argmax()))
    return ids[len(prompt_ids) :]


@pytest.mark.slow
def test_a_file_is_served_by_its_path(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, kind="Q8_0", **TOKENIZER)
    config = {"max_rows": 2, "token_budget": 64, "max_model_len": 64, "kv_pages": 12}
    wanted = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    with LLM(path, **config) as llm:
        (found,) = llm.generate("hello", wanted)
    expected = greedy(path, [TOKENS.index(letter) for letter in "hello"], count=8)
    assert list(found.completions[0].token_ids) == expected
    text = "".join(TOKENS[i] for i in expected if i < VOCAB - 1)
    assert found.completions[0].text == text


def test_clients_are_told_the_name_of_the_file_and_its_path(tmp_path):
    path = tmp_path / "tiny.Q8_0.gguf"
    write_gguf(path, kind="Q8_0", **TOKENIZER)
    name = EngineConfig(model=str(path)).name
    assert name == "tiny.Q8_0"
    served = served_model(name, path)
    assert (served.name, served.path) == ("tiny.Q8_0", str(path))
    assert served.tokenizer.encode("abc") == [0, 1, 2]
