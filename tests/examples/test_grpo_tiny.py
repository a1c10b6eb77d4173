"""The example, imported by its path: rewards, batches, the loss, two steps of it."""

import dataclasses
import importlib.util
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mell_jax import LLM, Completion, RequestOutput, SamplingParams
from mell_jax.engine.build import demo_directory
from mell_jax.frontend import TokenLogprobs
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_tiny.py"
RULE = optax.sgd(0.1)  # one object, so that it is compiled once
STORY = Completion(
    index=0,
    text="there was a hedgehog.",
    token_ids=(7, 8, 1),
    logprobs=tuple(TokenLogprobs(token=0, logprob=-x, top=()) for x in (1.0, 2.0, 3.0)),
    finish_reason="stop",
    stop_token=1,
    stop_string=None,
)


@pytest.fixture(scope="module")
def whole_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_tiny", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(whole_example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example with groups of two short stories for each of two animals."""
    small = dataclasses.replace(whole_example.SAMPLING, n=2, max_tokens=8)
    monkeypatch.setattr(whole_example, "SAMPLING", small)
    monkeypatch.setattr(whole_example, "ANIMALS", ("hedgehog", "lamb"))
    return whole_example


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """It has the vocabulary of the demo model; what a test teaches it stays."""
    shape = uniform_config(
        vocab_size=1031,
        hidden_size=32,
        intermediate_size=32,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=64,
        tie_embeddings=True,
    )
    return Decoder(shape, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def llm(decoder: Decoder) -> Iterator[LLM]:
    with LLM.from_nnx(
        decoder,
        tokenizer=demo_directory(),
        max_rows=4,
        decode_rows=(4,),
        token_budget=32,
        kv_pages=17,
    ) as llm:
        yield llm


def output_of(*stories: Completion) -> RequestOutput:
    return RequestOutput(
        completions=stories,
        prompt_tokens=2,
        prompt_token_ids=(0, 5),
        cached_tokens=0,
        prompt_logprobs=None,
    )


def plain_logprobs(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """Log probabilities [B, T] of all tokens but the first."""
    positions = jnp.arange(tokens.shape[1] - 1)[None]
    hidden, _ = decoder(tokens[:, :-1], positions, None, causal_attention)
    every = jax.nn.log_softmax(decoder.logits(hidden))
    return np.take_along_axis(np.asarray(every), tokens[:, 1:, None], axis=-1)[..., 0]


def test_a_story_has_to_end_and_to_name_its_animal(example: ModuleType) -> None:
    assert example.reward(STORY, "hedgehog") == 1.0
    assert example.reward(STORY, "lamb") == 0.0
    cut = dataclasses.replace(STORY, finish_reason="length")
    assert example.reward(cut, "hedgehog") == 0.0
    other = dataclasses.replace(STORY, text="a lamb")
    rewards = example.rewards_of([output_of(STORY, other), output_of(STORY, other)])
    assert rewards.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_story_is_compared_with_its_own_group(example: ModuleType) -> None:
    advantages = example.advantages_of(np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(advantages, [[1.0, -1.0], [0.0, 0.0]], atol=1e-3)


def test_a_row_is_a_prompt_and_its_story(example: ModuleType) -> None:
    outputs = [output_of(STORY, STORY)]
    batch = example.make_batch(outputs, np.array([[1.0, -1.0]]))
    assert batch.tokens.shape == (2, 16 + 8 + 1)
    assert batch.tokens[0, :7].tolist() == [0, 5, 7, 8, 1, 0, 0]
    assert batch.is_story[0, :7].tolist() == [False, True, True, True, *[False] * 3]
    assert batch.logprobs[1, :5].tolist() == [0.0, -1.0, -2.0, -3.0, 0.0]
    assert batch.advantages.tolist() == [[1.0], [-1.0]]


def test_every_story_is_in_one_part(example: ModuleType) -> None:
    column = np.arange(6)
    batch = example.Batch(column, column, -column, column[:, None])
    parts = example.split(batch, random.Random(1))
    assert [len(part.tokens) for part in parts] == [3, 3]
    assert sorted(np.concatenate([part.tokens for part in parts])) == [*range(6)]
    for part in parts:
        assert (part.tokens == -part.logprobs).all()
        assert (part.tokens == part.advantages[:, 0]).all()


@pytest.mark.parametrize(
    ("advantage", "ratio", "change"),
    [(1.0, 1.0, 1), (-1.0, 1.0, -1), (0.0, 1.0, 0), (1.0, 2.0, 0), (-1.0, 0.5, 0)],
)
def test_a_better_story_gets_likelier_as_far_as_it_may(
    example: ModuleType,
    decoder: Decoder,
    advantage: float,
    ratio: float,  # of its odds now to when it was drawn
    change: int,
) -> None:
    tokens = np.array([[0, 5, 7, 8, 1, 0]], np.int32)
    is_story = np.array([[False, True, True, True, False]])
    before = plain_logprobs(decoder, tokens)
    batch = example.Batch(
        tokens,
        is_story,
        (before - np.log(ratio)).astype(np.float32),
        np.array([[advantage]], np.float32),
    )
    adam = nnx.Optimizer(decoder, RULE, wrt=nnx.Param)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 and float32
        loss = float(example.learn(decoder, adam, batch))
    clipped = {2.0: 1.2, 0.5: 0.8}.get(ratio, ratio)
    assert loss == pytest.approx(-advantage * clipped, abs=1e-5)
    moved = (plain_logprobs(decoder, tokens) - before)[is_story].sum()
    assert np.sign(np.round(moved, 6)) == change


def test_the_engine_drew_from_what_is_learned(
    example: ModuleType, decoder: Decoder, llm: LLM
) -> None:
    llm.update_weights(decoder)
    outputs = example.ask(llm, random.Random(0))
    assert {len(out.completions) for out in outputs} == {2}
    batch = example.make_batch(outputs, np.zeros((2, 2)))
    theirs = plain_logprobs(decoder, batch.tokens)
    np.testing.assert_allclose(
        batch.logprobs[batch.is_story], theirs[batch.is_story], atol=1e-4
    )


def test_what_two_steps_have_learned_is_served(
    example: ModuleType,
    decoder: Decoder,
    llm: LLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(example, "reward", lambda story, _: float(len(story.text) % 7))
    version = int(llm.weights_version)
    before = jax.tree.map(jnp.copy, nnx.state(decoder, nnx.Param))
    with jax.numpy_dtype_promotion("standard"):
        means = example.train(decoder, llm, steps=2, seed=0)
    assert len(means) == 2
    changed = jax.tree.map(
        lambda old, new: bool((old != new).any()), before, nnx.state(decoder, nnx.Param)
    )
    assert all(jax.tree.leaves(changed))
    assert int(llm.weights_version) == version + 2
    params = SamplingParams(temperature=0.0, max_tokens=8, logprobs=0, ignore_eos=True)
    ((answer,),) = (out.completions for out in llm.generate([[0, 5, 9]], params))
    assert answer.logprobs is not None
    theirs = plain_logprobs(decoder, np.array([[0, 5, 9, *answer.token_ids]]))[0, 2:]
    given = [one.logprob for one in answer.logprobs]
    np.testing.assert_allclose(given, theirs, atol=1e-4)


def test_the_picture_is_svg(example: ModuleType) -> None:
    picture = ET.fromstring(example.draw([0.0, 0.5, 1.0]))
    raw, means = picture.iter("{http://www.w3.org/2000/svg}polyline")
    assert raw.attrib["points"] == "0,1.000 1,0.500 2,0.000"
    assert means.attrib["points"] == "0,1.000 1,0.750 2,0.500"
