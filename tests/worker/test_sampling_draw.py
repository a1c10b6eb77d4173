"""Draws have the right distribution and depend on seed and position only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.worker.sampling.draw import draw, row_keys
from tests.worker.sampling_harness import draw_many
from tests.worker.sampling_model import Wish, probabilities

DRAWS = 40_960


def chi_square_z(tokens, *, expected):
    """(chi2 - dof) / sqrt(2 dof), cells of few expected draws merged into one."""
    counts = np.bincount(tokens, minlength=len(expected)).astype(np.float64)
    assert counts[expected == 0].sum() == 0
    wanted = expected * len(tokens)
    is_big = wanted >= 10
    counts = np.append(counts[is_big], counts[~is_big].sum())
    wanted = np.append(wanted[is_big], wanted[~is_big].sum())
    is_used = wanted > 0
    chi2 = ((counts[is_used] - wanted[is_used]) ** 2 / wanted[is_used]).sum()
    dof = is_used.sum() - 1
    return (chi2 - dof) / np.sqrt(2 * dof)


@pytest.mark.parametrize(
    "wish",
    [
        Wish(temperature=1.0, seed=1),
        Wish(temperature=0.5, seed=2),
        Wish(temperature=2.0, seed=2**33 + 3),
        Wish(temperature=1.0, top_k=12, seed=4),
        Wish(temperature=1.0, top_p=0.8, seed=5),
        Wish(temperature=1.0, min_p=0.05, seed=6),
        Wish(temperature=1.3, top_k=200, top_p=0.9, min_p=0.01, seed=7),
    ],
)
def test_draws_follow_the_distribution_of_the_model(wish):
    logits = np.random.default_rng(8).standard_normal(300).astype(np.float32) * 2
    tokens = draw_many(logits, wish=wish, count=DRAWS)
    expected = probabilities(logits, wish=wish)
    assert abs(chi_square_z(tokens, expected=expected)) < 4.0


def test_the_chi_square_notices_a_distribution_that_is_slightly_wrong():
    logits = np.random.default_rng(8).standard_normal(300).astype(np.float32) * 2
    tokens = draw_many(logits, wish=Wish(temperature=1.0, seed=1), count=DRAWS)
    wrong = probabilities(logits, wish=Wish(temperature=1.05))
    assert chi_square_z(tokens, expected=wrong) > 6.0


def test_neighbouring_seeds_at_one_position_draw_independently():
    weights = jnp.ones((DRAWS, 16), jnp.float32)
    seeds = np.arange(DRAWS, dtype=np.uint32)
    keys = row_keys(
        seed_hi=jnp.zeros_like(seeds),
        seed_lo=jnp.asarray(seeds),
        position=jnp.full((DRAWS,), 9, jnp.int32),
    )
    tokens = np.asarray(draw(weights, keys=keys))
    assert abs(chi_square_z(tokens, expected=np.full(16, 1 / 16))) < 4.0
    pairs = tokens[:-1] * 16 + tokens[1:]
    assert abs(chi_square_z(pairs, expected=np.full(256, 1 / 256))) < 4.0


def test_a_block_of_rare_tokens_gets_its_share():
    # 128 tokens of 1e-5 each beside one of almost 1, in another block
    weights = np.zeros(256, np.float32)
    weights[0], weights[128:] = 1.0, 1e-5
    expected = weights / weights.sum(dtype=np.float64)
    keys = row_keys(
        seed_hi=jnp.zeros((DRAWS,), jnp.uint32),
        seed_lo=jnp.full((DRAWS,), 3, jnp.uint32),
        position=jnp.arange(DRAWS, dtype=jnp.int32),
    )
    tokens = np.asarray(draw(jnp.tile(weights, (DRAWS, 1)), keys=keys))
    rare = (tokens >= 128).sum()
    wanted = DRAWS * expected[128:].sum()  # about 52
    assert abs(rare - wanted) < 4 * np.sqrt(wanted)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_a_seed_below_two_to_the_32_is_jaxs_own_key(seed):
    (key,) = row_keys(
        seed_hi=jnp.zeros((1,), jnp.uint32),
        seed_lo=jnp.full((1,), seed, jnp.uint32),
        position=jnp.full((1,), 12, jnp.int32),
    )
    with jax.enable_x64(False):
        expected = jax.random.fold_in(jax.random.key(np.uint32(seed)), 12)
    assert (jax.random.key_data(key) == jax.random.key_data(expected)).all()


def test_a_row_without_weight_draws_token_zero():
    keys = jax.random.split(jax.random.key(0), 2)
    assert draw(jnp.zeros((2, 300), jnp.float32), keys=keys).tolist() == [0, 0]


def test_a_token_without_weight_is_never_drawn():
    weights = np.zeros((4096, 260), np.float32)
    weights[:, [0, 130, 259]] = [1.0, 1e-30, 0.5]
    keys = jax.random.split(jax.random.key(1), 4096)
    assert set(draw(jnp.asarray(weights), keys=keys).tolist()) == {0, 259}


def test_small_errors_of_the_logits_rarely_change_a_draw():
    # flat over 4096 tokens; a uniform looked up in the cumulative sum changes 40
    rng = np.random.default_rng(9)
    logits = rng.standard_normal(4096) * 0.1
    keys = jax.random.split(jax.random.key(2), 2048)
    noise = 1 + 1e-3 * rng.standard_normal((2048, 4096))
    exact = np.tile(np.exp(logits - logits.max()), (2048, 1))
    one = draw(jnp.asarray(exact, jnp.float32), keys=keys)
    other = draw(jnp.asarray(exact * noise, jnp.float32), keys=keys)
    assert int((one != other).sum()) <= 6
