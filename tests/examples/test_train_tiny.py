"""The example, imported by its path: stories, tokenizer and a short training."""

import importlib.util
import random
import re
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from flax import nnx

from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_tiny.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tiny", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_stories(example: ModuleType, *, seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [example.story(rng) for _ in range(count)]


def test_a_seed_always_writes_the_same_stories(example: ModuleType) -> None:
    first = write_stories(example, seed=7, count=20)
    assert write_stories(example, seed=7, count=20) == first
    assert write_stories(example, seed=8, count=20) != first


def test_no_two_of_two_thousand_stories_are_the_same(example: ModuleType) -> None:
    assert len(set(write_stories(example, seed=0, count=2_000))) == 2_000


def test_stories_are_finished_english(example: ModuleType) -> None:
    for text in write_stories(example, seed=1, count=500):
        assert not re.search(r"[][{}|]|  | [.,!?]", text), text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
        assert all(line[0].isupper() and line[-1] in '."' for line in text.split("\n"))
        assert 60 <= len(text.split()) <= 400, text


def test_the_tokenizer_puts_bos_first_and_gives_the_text_back(
    example: ModuleType,
) -> None:
    stories = write_stories(example, seed=2, count=300)
    tokenizer = example.train_tokenizer(stories)
    ids = tokenizer.encode(stories[0] + "<eos>").ids
    assert ids[0] == 0 and ids[-1] == 1
    assert tokenizer.decode(ids) == stories[0]
    assert tokenizer.decode(tokenizer.encode("né €5 🙂").ids) == "né €5 🙂"
    assert tokenizer.get_vocab_size() <= 1_536


@pytest.mark.slow
def test_a_tiny_model_learns_and_reaches_the_long_rows(example: ModuleType) -> None:
    stories = write_stories(example, seed=3, count=100)
    tokenizer = example.train_tokenizer(stories)
    ids = np.concatenate([tokenizer.encode(f"{text}<eos>").ids for text in stories])
    config = uniform_config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_embeddings=True,
    )
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 and float32
        losses = example.train(decoder, ids, steps=40)
    assert len(losses) == 40
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < losses[0] - 0.3
