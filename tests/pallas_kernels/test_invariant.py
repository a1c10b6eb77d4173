"""The invariant body: right against the oracle, and to the bit alike in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.pallas_kernels import ragged_paged_attention
from tests.pallas_kernels import oracle
from tests.pallas_kernels.oracle import Batch, Row
from tests.pallas_kernels.test_attention import DECODE, LENGTHS, MIXED

EXTRAS = st.sampled_from([{}, {"window": 40, "soft_cap": 3.0}])  # each compiled once
BACKEND = "invariant"


ATTEND = jax.jit(
    ragged_paged_attention,
    static_argnames=("sm_scale", "window", "soft_cap", "decode", "backend"),
)


def error(batch: Batch, *, decode=False, **options):
    want = oracle.attend(batch, sm_scale=0.2, **options)
    got = ATTEND(
        jnp.asarray(batch.q),
        jnp.asarray(batch.pool),
        layer=jnp.int32(oracle.LAYER),
        page_table=jnp.asarray(batch.page_table),
        kv_lens=jnp.asarray(batch.kv_lens),
        cu_q_lens=jnp.asarray(batch.cu_q_lens),
        sm_scale=0.2,
        decode=decode,
        backend=BACKEND,
        **options,
    )
    return oracle.relative_error(np.asarray(got), want)


@st.composite
def rows_within(draw, tokens=320):
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        context = draw(LENGTHS)
        new = min(tokens, draw(st.sampled_from([0, 1, 1, 2, 3, 5, context])), context)
        rows.append(Row(new=new, context=context))
        tokens -= new
    return rows


@settings(max_examples=20, deadline=None)
@given(rows=rows_within(), seed=st.integers(0, 2**16), how=EXTRAS)
def test_any_mix_of_rows_matches_the_oracle(rows, seed, how):
    batch = oracle.make_batch(rows, MIXED, seed=seed, window=how.get("window"))
    assert error(batch, **how) <= 1e-6


@settings(max_examples=10, deadline=None)
@given(contexts=st.lists(LENGTHS, max_size=6), seed=st.integers(0, 2**16))
def test_any_decode_batch_matches_the_oracle(contexts, seed):
    rows = [Row(new=1, context=context) for context in contexts]
    batch = oracle.make_batch(rows, DECODE, seed=seed)
    assert error(batch, decode=True) <= 1e-6


class World:
    """One row of 300 tokens in a pool full of others, and what each token must get."""

    def __init__(self, *, seed=0, length=300, **options):
        self.rng = np.random.default_rng(seed)
        self.options, self.length = options, length
        shape = (MIXED.pages, 3, 2, MIXED.kv_heads, 16, MIXED.head)
        self.pool = self.rng.normal(size=shape).astype(np.float32)
        heads = MIXED.kv_heads * MIXED.group
        self.q = self.rng.normal(size=(length, heads, MIXED.head)).astype(np.float32)
        self.table = self.rng.permutation(np.arange(1, MIXED.pages))[:24]
        self.told: dict[int, bytes] = {}

    def step(self, *, new, end, others, at):
        """Computes tokens [end - new, end) as row `at` beside `others`, and compares.

        Returns whether each token got, to the bit, what it got before.
        """
        rows = [(Row(new=n, context=c), None) for n, c in others]
        rows.insert(at, (Row(new=new, context=end), self.table))
        rows = rows[: MIXED.rows] + [(Row(new=0, context=0), None)] * (
            MIXED.rows - len(rows)
        )
        lens = [row.new for row, _ in rows]
        starts = np.cumsum([0, *lens]).astype(np.int32)
        q = self.rng.normal(size=(MIXED.tokens, *self.q.shape[1:])).astype(np.float32)
        q[starts[at] : starts[at] + new] = self.q[end - new : end]
        free = np.setdiff1d(np.arange(1, MIXED.pages), self.table)
        table = np.zeros((MIXED.rows, MIXED.table), np.int32)
        for row, (_, pages) in enumerate(rows):
            own = self.rng.choice(free, MIXED.table, replace=False)
            table[row] = own if pages is None else pages
        got = np.asarray(
            ATTEND(
                jnp.asarray(q),
                jnp.asarray(self.pool),
                layer=jnp.int32(oracle.LAYER),
                page_table=jnp.asarray(table),
                kv_lens=jnp.asarray([row.context for row, _ in rows], jnp.int32),
                cu_q_lens=jnp.asarray(starts),
                sm_scale=0.2,
                **self.options,
            )
        )
        return all(
            self.told.setdefault(end - new + i, got[starts[at] + i].tobytes())
            == got[starts[at] + i].tobytes()
            for i in range(new)
        )


steps = st.lists(
    st.tuples(
        st.integers(1, 40),  # new
        st.integers(40, 300),  # end
        st.lists(st.tuples(st.integers(0, 20), st.integers(20, 380)), max_size=5),
        st.floats(0, 1),
    ),
    min_size=12,
    max_size=12,
)


def is_alike(world, drawn):
    return all(
        [
            world.step(new=new, end=end, others=others, at=round(at * len(others)))
            for new, end, others, at in drawn
        ]
    )


@settings(max_examples=12, deadline=None)
@given(drawn=steps, how=EXTRAS, seed=st.integers(0, 99))
def test_a_token_gets_the_same_bits_in_every_batch(drawn, how, seed):
    world = World(backend=BACKEND, seed=seed, **how)
    whole = [(40, end, [], 0.0) for end in range(40, 301, 40)] + [(20, 300, [], 0.0)]
    singles = [(1, end, others, at) for _, end, others, at in drawn]
    assert is_alike(world, [*whole, *drawn, *singles])
    assert len(world.told) == 300


def test_another_body_is_caught():
    """The control: the usual body merges what happens to be together."""
    world = World(backend="xla")
    rng = np.random.default_rng(1)
    drawn = [
        (1, 290, [(1, int(c)) for c in rng.integers(20, 380, 5)], 0.5) for _ in range(8)
    ]
    assert not is_alike(world, [(40, 290, [], 0.0), *drawn])
