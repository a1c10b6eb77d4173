"""Trees of other programs are loaded so that logits are those of their arithmetic."""

import math
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from mell_jax.checkpoints import CheckpointError, load_model
from mell_jax.checkpoints.foreign_tree import refuse_adapters
from mell_jax.models.attention import causal_attention
from mell_jax.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig, inverse_frequencies
from mell_jax.models.rope_scaling import Llama3Rope
from mell_jax.models.uniform import uniform_config
from tests.checkpoints.foreign_model import Layer, Program, gelu_tanh, logits, silu
from tests.checkpoints.tiny import on_one_device

D, F, V, L, N, K, H = 12, 20, 23, 4, 6, 2, 8
PADDED = 32  # rows of MaxText's embedding
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
LLAMA_3_1 = Llama3Rope(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16
)
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": F,
    "num_layers": L,
    "num_heads": N,
    "num_kv_heads": K,
    "head_dim": H,
    "max_position_embeddings": 128,
}


def gemma_config(*, has_qk_norm: bool = False, heads: int = N, kv: int = K):
    norm = NormConfig(is_offset=True, eps=1e-6)
    layers = tuple(
        LayerConfig(
            attention=AttentionConfig(
                num_heads=heads,
                num_kv_heads=kv,
                head_dim=H,
                window=3 if index % 2 == 0 else None,
                rope=RopeConfig(),
                soft_cap=None if has_qk_norm else 5.0,
                qk_norm=norm if has_qk_norm else None,
            ),
            feed_forward=FeedForwardConfig(size=F, activation="gelu_tanh"),
            norm=norm,
            norm_places="both",
        )
        for index in range(L)
    )
    return ModelConfig(
        vocab_size=V,
        hidden_size=D,
        max_position_embeddings=128,
        layers=layers,
        norm=norm,
        tie_embeddings=True,
        embedding_multiplier=math.sqrt(D),
        logit_soft_cap=9.0,
    )


GEMMA_ARITHMETIC = Program(
    frequencies=inverse_frequencies(RopeConfig(), head_dim=H),
    score_scale=1 / math.sqrt(H),
    embedding_multiplier=math.sqrt(D),
    soft_cap=5.0,
    last_soft_cap=9.0,
    eps=1e-6,
    act=gelu_tanh,
)


class Leaves(dict):
    """A flat tree, "a.b" -> array, that makes leaves up as they are named."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)

    def new(self, name, *shape, scale=1.0, plus=0.0):
        values = self.random.standard_normal(shape) * scale + plus
        self[name] = values.astype(np.float32)
        return self[name]

    def nested(self):
        tree = {}
        for name, values in self.items():
            *path, leaf = name.split(".")
            inner = tree
            for step in path:
                inner = inner.setdefault(step, {})
            inner[leaf] = values
        return tree


def save(directory, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / "3" / "items", tree)
    return directory


def load(directory, config, dtype=jnp.float32):
    return load_model(directory, dtype=dtype, sharding_for=on_one_device, config=config)


def loaded_logits(directory, config):
    loaded = load(directory, config)
    decoder = nnx.merge(loaded.graphdef, loaded.state)
    tokens = jnp.array(TOKENS)
    hidden, _ = decoder(tokens, jnp.arange(len(TOKENS)), None, causal_attention)
    return np.asarray(decoder.logits(hidden))


def check(directory, config, *, expected):
    found = loaded_logits(directory, config)
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


# -- MaxText ----------------------------------------------------------------------


def maxtext_layer(leaves, name, *, axis, index, shape, **how):
    """The leaf of one layer: alone, or of an array of all on `axis`."""
    if axis is None:
        return leaves.new(f"decoder.layers_{index}.{name}", *shape, **how)
    whole = f"decoder.layers.{name}"
    if whole not in leaves:
        leaves.new(whole, *shape[:axis], L, *shape[axis:], **how)
    return leaves[whole].take(index, axis=axis)


def maxtext(*, axis, has_bias=False, has_head_norms=False, divided=True):
    leaves, layers = Leaves(), []
    embedding = leaves.new("token_embedder.embedding", PADDED, D)
    for index in range(L):

        def leaf(name, *shape, index=index, **how):
            return maxtext_layer(
                leaves, name, axis=axis, index=index, shape=shape, **how
            )

        def norm(name, size):
            return leaf(f"{name}.scale", size, scale=0.3, plus=1.0)

        at = "self_attention"
        heads = {"q": "query", "k": "key"}
        layers.append(
            Layer(
                q=leaf(f"{at}.query.kernel", D, N, H, scale=0.1 if divided else 0.4),
                k=leaf(f"{at}.key.kernel", D, K, H, scale=0.4),
                v=leaf(f"{at}.value.kernel", D, K, H, scale=0.4),
                out=leaf(f"{at}.out.kernel", N, H, D, scale=0.2),
                gate=leaf("mlp.wi_0.kernel", D, F, scale=0.3),
                up=leaf("mlp.wi_1.kernel", D, F, scale=0.3),
                down=leaf("mlp.wo.kernel", F, D, scale=0.3),
                norms={
                    "before attention": norm("pre_self_attention_layer_norm", D),
                    "before mlp": norm("post_self_attention_layer_norm", D),
                },
                biases={
                    kind: leaf(f"{at}.{name}.bias", count, H)
                    for kind, name, count in (
                        ("q", "query", N),
                        ("k", "key", K),
                        ("v", "value", K),
                    )
                }
                if has_bias
                else {},
                head_norms={
                    kind: norm(f"{at}.{name}_norm", H) for kind, name in heads.items()
                }
                if has_head_norms
                else {},
            )
        )
    last = leaves.new("decoder.decoder_norm.scale", D, scale=0.3, plus=1.0)
    head = leaves.new("decoder.logits_dense.kernel", D, PADDED)
    wanted = {
        "embedding": embedding,
        "layers": layers,
        "last_norm": last,
        "head": head[:, :V],
    }
    return leaves, wanted


@pytest.mark.parametrize("axis", [None, 1, 0], ids=["alone", "scanned", "leading"])
@pytest.mark.parametrize(
    ("options", "made", "program"),
    [
        ({}, {}, {}),
        ({"rope": RopeConfig(scaling=LLAMA_3_1)}, {}, {"is_interleaved": True}),
        (
            {"rope": RopeConfig(scaling=LLAMA_3_1, is_interleaved=True)},
            {},
            {"is_interleaved": True},
        ),
        (
            {"qkv_bias": True},
            {"has_bias": True, "divided": False},
            {"score_scale": 1 / math.sqrt(H)},
        ),
        (
            {"has_qk_norm": True},
            {"has_head_norms": True, "divided": False},
            {"score_scale": 1 / math.sqrt(H)},
        ),
    ],
    ids=["Llama 2", "Llama 3.1", "Llama 3.1 told so", "Qwen 2", "Qwen 3"],
)
def test_maxtext_is_read(tmp_path, axis, options, made, program) -> None:
    config = uniform_config(**SIZES, **options)
    leaves, wanted = maxtext(axis=axis, **made)
    rope = config.layers[0].attention.rope
    arithmetic = Program(
        frequencies=inverse_frequencies(rope, head_dim=H), act=silu, **program
    )
    tree = {"step": np.int32(3), "params": {"params": leaves.nested()}}
    check(save(tmp_path, tree), config, expected=logits(arithmetic, TOKENS, **wanted))


@pytest.mark.parametrize("is_scanned", [True, False])
def test_gemma_2_of_maxtext_is_read(tmp_path, is_scanned) -> None:
    leaves, layers = Leaves(), []
    embedding = leaves.new("token_embedder.embedding", PADDED, D)
    for index in range(L):
        part = "_local" if index % 2 == 0 else "_global"

        def leaf(name, *shape, number=index // 2, **how):
            if not is_scanned:
                return leaves.new(f"decoder.layers_{number}.{name}", *shape, **how)
            whole = f"decoder.layers.{name}"
            if whole not in leaves:
                leaves.new(whole, shape[0], L // 2, *shape[1:], **how)
            return leaves[whole].take(number, axis=1)

        def norm(name, part=part, leaf=leaf):
            return leaf(f"{name}{part}.scale", D, scale=0.3, plus=1.0)

        at, mlp = f"self_attention{part}", f"mlp{part}"
        layers.append(
            Layer(
                q=leaf(f"{at}.query.kernel", D, N, H, scale=0.1),
                k=leaf(f"{at}.key.kernel", D, K, H, scale=0.4),
                v=leaf(f"{at}.value.kernel", D, K, H, scale=0.4),
                out=leaf(f"{at}.out.kernel", N, H, D, scale=0.2),
                gate=leaf(f"{mlp}.wi_0.kernel", D, F, scale=0.3),
                up=leaf(f"{mlp}.wi_1.kernel", D, F, scale=0.3),
                down=leaf(f"{mlp}.wo.kernel", F, D, scale=0.3),
                norms={
                    "before attention": norm("pre_self_attention_norm"),
                    "after attention": norm("post_self_attention_norm"),
                    "before mlp": norm("pre_ffw_norm"),
                    "after mlp": norm("post_ffw_norm"),
                },
                window=3 if part == "_local" else None,
            )
        )
    last = leaves.new("decoder.decoder_norm.scale", D, scale=0.3, plus=1.0)
    # What it looks up is multiplied already, and logits are divided by as much.
    program = replace(GEMMA_ARITHMETIC, score_scale=1.0, embedding_multiplier=1.0)
    expected = logits(
        program,
        TOKENS,
        embedding=embedding,
        layers=layers,
        last_norm=last,
        head=embedding[:V].T / math.sqrt(D),
    )
    tree = {"params": {"params": leaves.nested()}}
    check(save(tmp_path, tree), gemma_config(), expected=expected)


# -- Tunix ------------------------------------------------------------------------


def tunix(*, has_bias=False, has_head_norms=False):
    leaves, layers = Leaves(), []
    embedding = leaves.new("embedder.input_embedding", V, D)
    for index in range(L):
        at = f"layers.{index}"

        def norm(name, size=D, at=at):
            return leaves.new(f"{at}.{name}.w", size, scale=0.3, plus=1.0)

        biases = {
            kind: leaves.new(f"{at}.attn.{kind}_bias", count * H).reshape(count, H)
            for kind, count in (("q", N), ("k", K), ("v", K))
            if has_bias
        }
        layers.append(
            Layer(
                q=leaves.new(f"{at}.attn.q_proj.w", D, N, H, scale=0.4),
                k=leaves.new(f"{at}.attn.k_proj.w", D, K, H, scale=0.4),
                v=leaves.new(f"{at}.attn.v_proj.w", D, K, H, scale=0.4),
                out=leaves.new(f"{at}.attn.o_proj.w", N, H, D, scale=0.2),
                gate=leaves.new(f"{at}.mlp.gate_proj.kernel", D, F, scale=0.3),
                up=leaves.new(f"{at}.mlp.up_proj.kernel", D, F, scale=0.3),
                down=leaves.new(f"{at}.mlp.down_proj.kernel", F, D, scale=0.3),
                norms={
                    "before attention": norm("input_layernorm"),
                    "before mlp": norm("post_attention_layernorm"),
                },
                biases=biases,
                head_norms={kind: norm(f"attn.{kind}_norm", H) for kind in "qk"}
                if has_head_norms
                else {},
            )
        )
    wanted = {
        "embedding": embedding,
        "layers": layers,
        "last_norm": leaves.new("final_norm.w", D, scale=0.3, plus=1.0),
        "head": leaves.new("lm_head.w", D, V),
    }
    return leaves, wanted


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, {}),
        ({"qkv_bias": True}, {"has_bias": True}),
        ({"has_qk_norm": True}, {"has_head_norms": True}),
    ],
    ids=["Llama", "Qwen 2", "Qwen 3"],
)
def test_tunix_is_read(tmp_path, options, made) -> None:
    leaves, wanted = tunix(**made)
    program = Program(
        frequencies=inverse_frequencies(RopeConfig(), head_dim=H),
        score_scale=1 / math.sqrt(H),
        act=silu,
    )
    config = uniform_config(**SIZES, **options)
    check(
        save(tmp_path, leaves.nested()),
        config,
        expected=logits(program, TOKENS, **wanted),
    )


# -- Gemma, of Tunix and of google-deepmind ------------------------------------------


def gemma(*, is_tunix, has_qk_norm, after, is_turned=True, is_joined=False):
    """Leaves and weights; scales in the file are what is added to one."""
    leaves, layers = Leaves(), []
    heads, kv = (N, N) if is_joined else (N, K)
    embedding = leaves.new("embedder.input_embedding", V, D, scale=0.3)

    def norm(name, size=D):
        return 1.0 + leaves.new(f"{name}.scale", size, scale=0.3)

    for index in range(L):
        at = f"layers.{index}" if is_tunix else f"layer_{index}"
        attn, mlp = f"{at}.attn", f"{at}.mlp"
        if is_joined:
            q, k, v = leaves.new(f"{attn}.qkv_einsum.w", 3, N, D, H, scale=0.4)
        else:
            q = leaves.new(f"{attn}.q_einsum.w", N, D, H, scale=0.4)
            k, v = leaves.new(f"{attn}.kv_einsum.w", 2, K, D, H, scale=0.4)
        assert (len(q), len(k)) == (heads, kv)
        if is_tunix:
            gate = leaves.new(f"{mlp}.gate_proj.kernel", D, F, scale=0.3)
            up = leaves.new(f"{mlp}.up_proj.kernel", D, F, scale=0.3)
            down = leaves.new(f"{mlp}.down_proj.kernel", F, D, scale=0.3)
        elif is_turned:
            both = leaves.new(f"{mlp}.gating_einsum.w", 2, F, D, scale=0.3)
            gate, up = both[0].T, both[1].T
            down = leaves.new(f"{mlp}.linear.w", F, D, scale=0.3)
        else:
            gate, up = leaves.new(f"{mlp}.gating_einsum", 2, D, F, scale=0.3)
            down = leaves.new(f"{mlp}.linear", F, D, scale=0.3)
        layers.append(
            Layer(
                q=q.transpose(1, 0, 2),
                k=k.transpose(1, 0, 2),
                v=v.transpose(1, 0, 2),
                out=leaves.new(f"{attn}.attn_vec_einsum.w", N, H, D, scale=0.2),
                gate=gate,
                up=up,
                down=down,
                norms={
                    "before attention": norm(f"{at}.pre_attention_norm"),
                    "after attention": norm(f"{at}.{after}"),
                    "before mlp": norm(f"{at}.pre_ffw_norm"),
                    "after mlp": norm(f"{at}.post_ffw_norm"),
                },
                head_norms={
                    "q": norm(f"{attn}._query_norm", H),
                    "k": norm(f"{attn}._key_norm", H),
                }
                if has_qk_norm
                else {},
                window=3 if index % 2 == 0 else None,
            )
        )
    wanted = {
        "embedding": embedding,
        "layers": layers,
        "last_norm": norm("final_norm"),
        "head": embedding.T,
    }
    return leaves, wanted


def as_it_is(leaves):
    return leaves.nested()


def flat(leaves):
    """{"transformer/layer_0/attn/q_einsum": {"w": ...}}, as it is published."""
    tree = {}
    for name, values in leaves.items():
        path, _, leaf = name.rpartition(".")
        tree.setdefault("transformer/" + path.replace(".", "/"), {})[leaf] = values
    return tree


def seeing(leaves):
    """With parts that see, which stay on disk."""
    more = {"vision_encoder.patches.kernel": leaves.new("x", 3, 3)}
    more["embedder.mm_input_projection.w"] = leaves.pop("x")
    leaves.update(more)
    return leaves.nested()


@pytest.mark.parametrize(
    ("made", "tree_of"),
    [
        (
            {"is_tunix": True, "has_qk_norm": False, "after": "post_attn_norm"},
            as_it_is,
        ),
        (
            {"is_tunix": True, "has_qk_norm": True, "after": "post_attention_norm"},
            seeing,
        ),
        (
            {"is_tunix": False, "has_qk_norm": False, "after": "post_attention_norm"},
            flat,
        ),
        (
            {"is_tunix": False, "has_qk_norm": True, "after": "post_attention_norm"},
            lambda leaves: {"params": as_it_is(leaves)},
        ),
        (
            {
                "is_tunix": False,
                "has_qk_norm": False,
                "after": "post_attention_norm",
                "is_turned": False,
                "is_joined": True,
            },
            as_it_is,
        ),
    ],
    ids=["Tunix 2", "Tunix 3", "flat 2", "nested 3", "all heads in one"],
)
def test_gemma_is_read(tmp_path, made, tree_of) -> None:
    leaves, wanted = gemma(**made)
    kv = N if made.get("is_joined") else K
    config = gemma_config(has_qk_norm=made["has_qk_norm"], kv=kv)
    cap = None if made["has_qk_norm"] else 5.0
    program = replace(GEMMA_ARITHMETIC, soft_cap=cap)
    expected = logits(program, TOKENS, **wanted)
    check(save(tmp_path, tree_of(leaves)), config, expected=expected)


# -- what does not fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda leaves: leaves.pop("layers.1.attn.q_proj.w"),
            "array layers.1.attn.q_proj.w of Tunix is missing; do these",
        ),
        (
            lambda leaves: leaves.new("layers.0.attn.q_proj.w_lora_a", D, 2),
            r"1 arrays of LoRA, such as layers.0.attn.q_proj.w_lora_a, which .* merged",
        ),
        (
            lambda leaves: leaves.new("layers.0.attn.q_proj.scale", D, 2),
            r"1 arrays of Tunix that this model has no place for, .*q_proj.scale; do",
        ),
        (
            lambda leaves: leaves.new("layers.0.attn.q_proj.w", D, K, H),
            r"q_proj.kernel of shape \[12, 48\] cannot be made of Tunix's "
            r"layers.0.attn.q_proj.w \[12, 2, 8\]; do they belong",
        ),
        (
            lambda leaves: leaves.update({"final_norm.w": np.ones(D, np.int32)}),
            "array final_norm.w has the dtype int32; weights must be",
        ),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(tmp_path, spoil, message) -> None:
    leaves, _ = tunix()
    spoil(leaves)
    save(tmp_path, leaves.nested())
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, uniform_config(**SIZES))


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.self_attention.query.kernel_lora_a",
        "layer_0.attn.q_einsum.lora.a",
        "layers.0.attention.q_proj.lora_b",
        "LoRA.kernel",
    ],
)
def test_parameters_of_lora_alone_are_refused_with_the_way_out(tmp_path, name) -> None:
    leaves = Leaves()
    leaves.new(name, D, 2)
    save(tmp_path, {"params": leaves.nested()})
    with pytest.raises(CheckpointError, match=r"1 arrays of LoRA, .* alpha / rank"):
        load(tmp_path, uniform_config(**SIZES))


def test_a_name_that_only_sounds_like_lora_is_none() -> None:
    refuse_adapters(Path("x"), {("layers", "explorations", "kernel"): None})


def test_a_gate_that_may_be_either_way_round_is_refused(tmp_path) -> None:
    leaves, _ = gemma(is_tunix=False, has_qk_norm=False, after="post_attention_norm")
    for index in range(L):
        leaves.new(f"layer_{index}.mlp.gating_einsum.w", 2, D, D)
        leaves.new(f"layer_{index}.mlp.linear.w", D, D)
    config = gemma_config()
    square = tuple(
        replace(layer, feed_forward=replace(layer.feed_forward, size=D))
        for layer in config.layers
    )
    save(tmp_path, leaves.nested())
    with pytest.raises(CheckpointError, match="may be either way round, since both"):
        load(tmp_path, replace(config, layers=square))


def test_parameters_are_cast(tmp_path) -> None:
    leaves, _ = maxtext(axis=1)
    save(tmp_path, {"params": leaves.nested()})
    loaded = load(tmp_path, uniform_config(**SIZES), dtype=jnp.bfloat16)
    kinds = {param.dtype for _, param in nnx.to_flat_state(loaded.state)}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
