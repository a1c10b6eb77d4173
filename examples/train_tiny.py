"""Makes a served model of nothing, in one file: corpus, tokenizer, training, serving.

A small grammar writes stories, a Llama-shaped model of two million parameters learns
them in ten minutes on two CPU cores, and the last lines serve what it learned:

    python examples/train_tiny.py --output_dir=/tmp/tiny_stories
"""

import random
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax import nnx
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from tqdm import tqdm

from mell_jax import LLM, SamplingParams
from mell_jax.checkpoints import save_hf, save_orbax
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

_OUTPUT = flags.DEFINE_string("output_dir", "/tmp/tiny_stories", "where to save")
_STEPS = flags.DEFINE_integer("steps", 2_000, "optimizer steps", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the stories and of the weights")

# The grammar: [a|b] picks one; {A} is the hero, of whom {he} and {his} speak, {B} the
# friend with {she} and {her}; PER_STORY words stay, PER_PARAGRAPH words change.
BOYS, HE = "Tom Ben Max Sam Tim Leo Jack Finn Milo Oscar", ("he", "him", "his")
GIRLS, SHE = "Lily Mia Anna Sue Lucy Emma Rosie Nora Ella", ("she", "her", "her")
NAMES = dict.fromkeys(BOYS.split(), HE) | dict.fromkeys(GIRLS.split(), SHE)
PER_STORY = {
    "kind": "child dog cat rabbit fox bear mouse duck frog pig goat pony lion",
    "place": "park beach lake farm river hill garden woods meadow pond barn",
    "food": "cake pie soup bread rice pizza pudding porridge pasta",
    "fruit": "apples berries pears plums cherries oranges grapes peaches nuts",
    "elder": "mother father grandmother grandfather aunt uncle sister brother",
    "size": "little small young kind happy clever shy funny brave",
}
PER_PARAGRAPH = {
    "toy": "ball kite boat drum doll train truck hat book balloon robot car",
    "color": "red blue green yellow pink purple brown white golden orange",
    "animal": "bird kitten puppy lamb squirrel duckling hedgehog monkey",
    "day": "sunny warm windy bright cold quiet cloudy lovely",
}
PHRASES = {
    "first": "[One|One {day}] [morning|day]",
    "next": "[The next|Another|One {day}] [day|morning|afternoon]",
    "sad": "[felt very sad|began to cry|sat down and cried|wanted to cry]",
    "glad": "[felt very happy|smiled a big smile|laughed and clapped|jumped for joy]",
    "comfort": "[Do not worry|Do not be sad|It is all right|Do not cry]",
    "thanks": "[Thank you|Thank you so much|You are so kind]",
}
GRAMMAR = """\
Once upon a time, there was a {size} {kind} named {A}. {A} lived [with {his} {elder}|in\
 a {color} house] near the {place} and [had a good friend named|liked to play with] {B}.
{A} and {B} went to the {place} [to play|together|with {his} {elder}]. It was a {day}\
 day. They [saw a {color} {toy}|ate {fruit}|ran and jumped|met a {size} {animal}].
One day, a {size} {kind} named {A} [went for a walk|was playing] near the {place}. {He}\
 met {B}. "[Do you want to play|Can I be your friend]?" asked {A}. "Yes!" said {B}.

{A} took {his} {color} {toy} to the {place}. {He} played for hours, but then the {toy}\
 was gone. {A} {sad}. "I lost my {toy}," said {A}. "{comfort}. [I will help you|We will\
 find it]," said {B}. At last, {B} saw something {color} [under a bush|behind a rock|in\
 the tall grass]. It was the {toy}! {A} {glad}. "{thanks}, {B}," {he} said.
{A} heard a small sound. A {animal} was stuck [in a hole|in the mud|between two rocks].\
 "Help me, please!" it cried. {A} pulled, but {he} was not strong enough, so {he} ran\
 to get {B}. They pulled together, and at last the {animal} was free. "{thanks}," said\
 the {animal}. {A} {glad}, and they all [shared some {fruit}|played until evening].
{A} and {B} were walking to the {place} when it began to [rain|snow]. {A} was scared.\
 "[Where can we go|What can we do]?" {he} asked. {B} saw [a cave|an old house|a big\
 tree]. "Come, it is dry in there!" {she} said. {B} told a story about a {color}\
 {animal}, and soon [the sun came out|there was a rainbow]. {A} {glad}.
{A} had some {fruit} for lunch, but {B} had nothing to eat. {A} did not want to share,\
 and {B} {sad}. Then {A} remembered what {his} {elder} always said: "[Good friends\
 share|Be kind to others]." "I am sorry," said {A}. "You can have half." {B} {glad}.
{A} played with the {color} {toy} that belonged to {B}. {A} [ran too fast|was not\
 careful], and the {toy} fell and broke. {A} {sad}. Then {he} told {B} the truth. "I\
 broke your {toy}. I am sorry," said {A}. "{comfort}," said {B}. {His} {elder} helped\
 them with some [glue|paint|string], and soon the {toy} was as good as new.
there was a big race at the {place}. {A} ran as fast as the wind. Then {he} saw {B}\
 fall down. {A} [stopped|turned around]. "Are you hurt?" {he} asked. "My [leg|foot]\
 hurts," said {B}. {A} helped {her} up, and they crossed the line together. {B} {glad}.
{A} found a seed near the {place}. "Let us plant it," said {B}. They waited one day,\
 then two days, then three days, but nothing came up. {A} {sad}. "{comfort}. Good\
 things take time," said {his} {elder}. So {A} gave it water every day. At last, there\
 was a green leaf! Soon it was a big {color} [flower|tree|pumpkin|rose]. {A} {glad}.
it was the birthday of {B}. {A} wanted to give {her} a {toy}, but had no money. {A}\
 {sad}. "You can make something," said {his} {elder}. So {A} took some {color} paper\
 and made a [hat|card|picture of a {animal}]. "This is the best gift of all," said {B},\
 "because you made it for me." Then they ate {food} and [sang|danced].

From that day on, {A} and {B} were [the best of friends|never sad again|always kind].
When the stars came out, {A} and {B} went home. [{He} slept well|It was a good day].
"""
OPENINGS, PLOTS, ENDINGS = (part.splitlines() for part in GRAMMAR.split("\n\n"))


def write(text: str, *, words: dict[str, str], rng: random.Random) -> str:
    """Returns `text` with its choices made and its words filled in."""
    words = words | {key: rng.choice(x.split()) for key, x in PER_PARAGRAPH.items()}
    while "[" in text or "{" in text:  # what is filled in may hold choices
        text = text.format_map(words)
        text = re.sub(r"\[([^][]*)]", lambda m: rng.choice(m[1].split("|")), text)
    return re.sub(r"\b([Aa]) ([aeiou])", r"\1n \2", text)


def story(rng: random.Random) -> str:
    """Returns an opening, one to four little adventures, each a paragraph, and an
    ending.
    """
    hero, friend = rng.sample(list(NAMES), 2)
    (he, _, his), (she, her, _) = NAMES[hero], NAMES[friend]
    words = PHRASES | {"A": hero, "B": friend, "he": he, "his": his}
    words |= {"He": he.title(), "His": his.title(), "she": she, "her": her}
    words |= {key: rng.choice(x.split()) for key, x in PER_STORY.items()}
    plots = "\n{next}, ".join(rng.sample(PLOTS, rng.choice((1, 1, 2, 2, 3, 4))))
    text = f"{rng.choice(OPENINGS)} {{first}}, {plots} {rng.choice(ENDINGS)}"
    return "\n".join(write(line, words=words, rng=rng) for line in text.split("\n"))


def train_tokenizer(corpus: list[str]) -> Tokenizer:
    """Returns a byte-level BPE tokenizer that puts <bos> in front of everything it
    encodes.
    """
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus, vocab_size=1_536, special_tokens=["<bos>", "<eos>"])
    bpe.post_processor = TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 0)])
    return Tokenizer.from_str(bpe.to_str())


@nnx.jit
def learn(decoder: Decoder, adam: nnx.Optimizer[Decoder], rows: jax.Array) -> jax.Array:
    """Trains one step on token ids `rows` [B, T + 1] and returns the mean loss."""

    def loss(decoder: Decoder) -> jax.Array:
        positions = jnp.arange(rows.shape[1] - 1)[None]  # [1, T]
        hidden, _ = decoder(rows[:, :-1], positions, None, causal_attention)
        scores = decoder.logits(hidden)  # [B, T, V]
        nats = optax.softmax_cross_entropy_with_integer_labels(scores, rows[:, 1:])
        return jnp.mean(nats)

    value, gradient = nnx.value_and_grad(loss)(decoder)
    adam.update(decoder, gradient)
    return value


def train(decoder: Decoder, ids: np.ndarray, *, steps: int) -> list[float]:
    """Trains on pieces of the corpus, few at a time; returns the loss of every step."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 40, steps, 1e-4)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99))
    adam = nnx.Optimizer(decoder, rule, wrt=nnx.Param)
    rng, losses = np.random.default_rng(0), list[float]()
    for step in (bar := tqdm(range(steps), desc="train")):
        # Short pieces save time; the last steps teach to use the whole context.
        rows, length = (4, 128) if step < 0.85 * steps else (1, 1024)
        first = rng.integers(len(ids), size=(rows, 1))
        first[::2, 0] = rng.choice(np.flatnonzero(ids == 0), len(first[::2]))  # <bos>
        batch = jnp.asarray(ids[(first + np.arange(length + 1)) % len(ids)])
        losses.append(float(learn(decoder, adam, batch)))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    return losses


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax says a lot
    directory, rng = Path(_OUTPUT.value), random.Random(_SEED.value)
    directory.mkdir(parents=True)  # fails now, not after training, if it is there
    corpus = [story(rng) for _ in range(10_000)]
    tokenizer = train_tokenizer(corpus)
    ids = np.concatenate([tokenizer.encode(f"{text}<eos>").ids for text in corpus])
    config = uniform_config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=512,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_embeddings=True,
    )
    decoder = Decoder(config, rngs=nnx.Rngs(_SEED.value))
    for path, weight in nnx.to_flat_state(nnx.state(decoder, nnx.Param)):
        if path[-1] != "scale" and path[-2] not in ("o_proj", "down_proj"):
            weight[...] *= 3.6  # a narrow model learns sooner from 1 / sqrt(width)
    train(decoder, ids, steps=_STEPS.value)
    save_hf(directory, decoder=decoder, eos_ids=[1], bos_id=0)
    save_orbax(directory / "jax", decoder=decoder, eos_ids=[1], bos_id=0)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    llm = LLM.from_nnx(decoder, tokenizer=directory)
    sampling = SamplingParams(max_tokens=80, temperature=0.8)
    print(llm.generate(["Once upon a time"], sampling)[0].text)


if __name__ == "__main__":
    app.run(main)
