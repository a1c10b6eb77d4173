"""Teaches the demo model to write the story that is asked for, while it is served.

GRPO (arXiv 2402.03300) in one file: the engine writes a group of stories for each
prompt, a rule rewards them, Flax and optax learn from what is better than its group,
and the engine goes on with the new weights. On two CPU cores it takes some minutes:

    python examples/grpo_tiny.py --output_dir=/tmp/grpo_tiny
"""

import argparse
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from mell_jax import LLM, Completion, RequestOutput, SamplingParams
from mell_jax.checkpoints import load_model
from mell_jax.engine.build import demo_directory
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder

ANIMALS = ("duckling", "hedgehog", "kitten", "lamb", "monkey", "puppy", "squirrel")
PROMPT = "A story of a {}.\nOnce upon a time"  # the demo model has never seen a title
MOST_PROMPT_TOKENS = 16
SAMPLING = SamplingParams(
    n=8,  # the group
    max_tokens=128,
    temperature=1.0,
    logprobs=0,  # of the chosen tokens alone
    logprobs_mode="processed",  # of what they were drawn from
)
UPDATES = 2  # optimizer steps per rollout, each on a part of it
CLIP = 0.2  # how far one rollout may change the odds of a token


def reward(story: Completion, animal: str) -> float:
    """Returns 1 for a story that ends in time and names its animal, or else 0."""
    return float(story.finish_reason == "stop" and animal in story.text)


def rewards_of(outputs: Sequence[RequestOutput]) -> np.ndarray:
    """Returns the rewards of the stories of each animal, [animals, n]."""
    pairs = zip(outputs, ANIMALS, strict=True)
    return np.array([[reward(x, name) for x in out.completions] for out, name in pairs])


def advantages_of(rewards: np.ndarray) -> np.ndarray:
    """Returns how much better each story is than others of its group."""
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    return apart / (rewards.std(axis=1, keepdims=True) + 1e-4)


class Batch(NamedTuple):
    """Stories behind their prompts: T + 1 tokens a row, filled up with 0."""

    tokens: np.ndarray  # int32 [B, T + 1]
    is_story: np.ndarray  # bool [B, T], of tokens 1 to T
    logprobs: np.ndarray  # float32 [B, T], when these were drawn
    advantages: np.ndarray  # float32 [B, 1]


def make_batch(outputs: Sequence[RequestOutput], advantages: np.ndarray) -> Batch:
    """Returns all stories of a rollout, one a row."""
    size, length = advantages.size, MOST_PROMPT_TOKENS + SAMPLING.max_tokens
    tokens = np.zeros((size, length + 1), np.int32)
    is_story = np.zeros((size, length), bool)
    logprobs = np.zeros((size, length), np.float32)
    rows = ((out.prompt_token_ids, x) for out in outputs for x in out.completions)
    for row, (prompt, story) in enumerate(rows):
        ids = prompt + story.token_ids
        drawn = slice(len(prompt) - 1, len(ids) - 1)
        tokens[row, : len(ids)] = ids
        is_story[row, drawn] = True
        logprobs[row, drawn] = [one.logprob for one in story.logprobs]
    column = advantages.reshape(-1, 1).astype(np.float32)
    return Batch(tokens, is_story, logprobs, column)


def split(batch: Batch, rng: random.Random) -> list[Batch]:
    """Returns the stories in parts, one for each update."""
    rows = rng.sample(range(len(batch.tokens)), len(batch.tokens))
    parts = np.split(np.array(rows), UPDATES)
    return [Batch(*(column[part] for column in batch)) for part in parts]


@nnx.jit
def learn(decoder: Decoder, adam: nnx.Optimizer[Decoder], batch: Batch) -> jax.Array:
    """Makes better stories likelier than they were; returns the loss."""

    def loss(decoder: Decoder) -> jax.Array:
        positions = jnp.arange(batch.is_story.shape[1])[None]  # [1, T]
        hidden, _ = decoder(batch.tokens[:, :-1], positions, None, causal_attention)
        scores = decoder.logits(hidden) / SAMPLING.temperature  # [B, T, V]
        nats = optax.softmax_cross_entropy_with_integer_labels(
            scores, batch.tokens[:, 1:]
        )
        ratio = jnp.exp(jnp.where(batch.is_story, -nats - batch.logprobs, 0.0))
        clipped = jnp.clip(ratio, 1.0 - CLIP, 1.0 + CLIP)
        gain = jnp.minimum(ratio * batch.advantages, clipped * batch.advantages)
        return -jnp.mean(gain, where=batch.is_story)

    value, gradient = nnx.value_and_grad(loss)(decoder)
    adam.update(decoder, gradient)
    return value


def ask(llm: LLM, rng: random.Random) -> list[RequestOutput]:
    """Returns a rollout: a group of stories for each animal."""
    prompts = [PROMPT.format(animal) for animal in ANIMALS]
    seeds = [rng.getrandbits(32) for _ in ANIMALS]
    return llm.generate(prompts, [dataclasses.replace(SAMPLING, seed=x) for x in seeds])


def train(decoder: Decoder, llm: LLM, *, steps: int, seed: int) -> list[float]:
    """Trains a decoder on stories of the `llm` that serves it; returns mean rewards."""
    rng, means = random.Random(seed), list[float]()
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4))
    adam = nnx.Optimizer(decoder, rule, wrt=nnx.Param)
    for _ in (bar := tqdm(range(steps), desc="train")):
        outputs = ask(llm, rng)
        rewards = rewards_of(outputs)
        batch = make_batch(outputs, advantages_of(rewards))
        for part in split(batch, rng):
            learn(decoder, adam, part)
        llm.update_weights(decoder)
        means.append(float(rewards.mean()))
        bar.set_postfix(reward=f"{np.mean(means[-5:]):.2f}")
    return means


def evaluate(llm: LLM, *, rollouts: int = 4) -> float:
    """Returns the mean reward of stories by seeds of their own."""
    rng = random.Random("evaluate")
    return float(np.mean([rewards_of(ask(llm, rng)) for _ in range(rollouts)]))


def draw(rewards: Sequence[float]) -> str:
    """Returns a picture (SVG): the reward of each step, and means over ten of them."""
    means = [np.mean(rewards[max(0, i - 9) : i + 1]) for i in range(len(rewards))]

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x},{1 - value:.3f}" for x, value in enumerate(values))
        return f'<polyline points="{points}" {style}/>'

    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="600" height="260">
<style>polyline {{ fill: none; vector-effect: non-scaling-stroke }}</style>
<text x="8" y="22">1</text><text x="8" y="236">0</text>
<text x="200" y="254">mean reward, {len(rewards)} steps of GRPO</text>
<svg x="24" y="16" width="570" height="216" preserveAspectRatio="none"
 viewBox="0 0 {len(rewards) - 1} 1"><rect width="100%" height="1" fill="#f4f4f4"/>
{line(rewards, 'stroke="#9bc"')}
{line(means, 'stroke="#047" stroke-width="2"')}
</svg></svg>
"""


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--output_dir", type=Path, default=Path("/tmp/grpo_tiny"))
    flags.add_argument("--steps", type=int, default=40, help="rollouts to learn from")
    flags.add_argument("--seed", type=int, default=0, help="of the stories")
    given = flags.parse_args()
    folder = given.output_dir
    folder.mkdir(parents=True)  # fails now, not after training, if it is there
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    demo = load_model(demo_directory(), dtype=jnp.float32, sharding_for=lambda *_: here)
    decoder = nnx.merge(demo.graphdef, demo.state)
    with LLM.from_nnx(decoder, tokenizer=demo_directory(), max_model_len=256) as llm:
        before = evaluate(llm)
        rewards = train(decoder, llm, steps=given.steps, seed=given.seed)
        after = evaluate(llm)
        print(llm.generate(PROMPT.format("hedgehog"), SAMPLING)[0].text)
    print(f"mean reward before {before:.3f}, after {after:.3f}")
    found = {"seed": given.seed, "before": before, "after": after, "steps": rewards}
    (folder / "rewards.json").write_text(json.dumps(found, indent=2) + "\n")
    (folder / "rewards.svg").write_text(draw(rewards))


if __name__ == "__main__":
    main()
