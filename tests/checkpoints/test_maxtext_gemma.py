"""Gemma 1 and 3 of MaxText are loaded so that logits are those of its arithmetic."""

import math
from dataclasses import replace

import pytest

from mell_jax.models.config import NormConfig
from mell_jax.models.rope import RopeConfig, inverse_frequencies
from tests.checkpoints.foreign_model import Layer, logits
from tests.checkpoints.test_foreign_tree import (
    GEMMA_ARITHMETIC,
    PADDED,
    TOKENS,
    D,
    F,
    H,
    K,
    Leaves,
    N,
    V,
    check,
    gemma_config,
    maxtext_layer,
    save,
)

GEMMA_3_LAYERS = 14  # two blocks of six, and two more


def gemma_1_config():
    config = gemma_config()
    layers = tuple(
        replace(
            layer,
            norm_places="before",
            attention=replace(layer.attention, window=None, soft_cap=None),
        )
        for layer in config.layers
    )
    return replace(config, layers=layers, logit_soft_cap=None)


def gemma_3_config():
    """Two bases, one full layer in six, and a scale that no head's size gives."""
    norm = NormConfig(is_offset=True, eps=1e-6)
    layers = tuple(
        replace(
            layer,
            attention=replace(
                layer.attention,
                window=None if index % 6 == 5 else 3,
                rope=RopeConfig(theta=1e6 if index % 6 == 5 else 1e4),
                soft_cap=None,
                scale=0.3,
                qk_norm=norm,
            ),
        )
        for index, layer in enumerate(gemma_config().layers[:1] * GEMMA_3_LAYERS)
    )
    return replace(gemma_config(), layers=layers, logit_soft_cap=None)


def gemma_of_maxtext(leaf_of, *, config):
    """Leaves as `leaf_of(layer, name, shape)` makes them, and the same as `Layer`s."""
    layers = []
    for index, layer in enumerate(config.layers):

        def leaf(name, *shape, index=index, **how):
            return leaf_of(index, name, shape, **how)

        def norm(name, size=D, leaf=leaf):
            return leaf(f"{name}.scale", size, scale=0.3, plus=1.0)

        at, norms = "self_attention", {}
        norms["before attention"] = norm("pre_self_attention_norm")
        norms["before mlp"] = norm("pre_ffw_norm")
        if layer.norm_places == "both":
            norms["after attention"] = norm("post_self_attention_norm")
            norms["after mlp"] = norm("post_ffw_norm")
        is_normed = layer.attention.qk_norm is not None
        layers.append(
            Layer(
                q=leaf(f"{at}.query.kernel", D, N, H, scale=0.4 if is_normed else 0.1),
                k=leaf(f"{at}.key.kernel", D, K, H, scale=0.4),
                v=leaf(f"{at}.value.kernel", D, K, H, scale=0.4),
                out=leaf(f"{at}.out.kernel", N, H, D, scale=0.2),
                gate=leaf("mlp.wi_0.kernel", D, F, scale=0.3),
                up=leaf("mlp.wi_1.kernel", D, F, scale=0.3),
                down=leaf("mlp.wo.kernel", F, D, scale=0.3),
                norms=norms,
                head_norms={
                    "q": norm(f"{at}.query_norm", H),
                    "k": norm(f"{at}.key_norm", H),
                }
                if is_normed
                else {},
                window=layer.attention.window,
                frequencies=inverse_frequencies(layer.attention.rope, head_dim=H),
            )
        )
    return layers


def check_gemma_of_maxtext(directory, leaves, leaf_of, *, config, score_scale):
    embedding = leaves.new("token_embedder.embedding", PADDED, D)
    layers = gemma_of_maxtext(leaf_of, config=config)
    last = leaves.new("decoder.decoder_norm.scale", D, scale=0.3, plus=1.0)
    program = replace(
        GEMMA_ARITHMETIC,
        score_scale=score_scale,
        embedding_multiplier=1.0,
        soft_cap=None,
        last_soft_cap=None,
    )
    expected = logits(
        program,
        TOKENS,
        embedding=embedding,
        layers=layers,
        last_norm=last,
        head=embedding[:V].T / math.sqrt(D),
    )
    leaves.new("vision_encoder.Gemma3VisionEncoderLayer_0.pos_embedding", 1, 3, D)
    tree = {"params": {"params": leaves.nested()}}
    check(save(directory, tree), config, expected=expected)


@pytest.mark.parametrize("axis", [None, 1], ids=["alone", "scanned"])
def test_gemma_1_of_maxtext_is_read(tmp_path, axis) -> None:
    leaves = Leaves()

    def leaf_of(index, name, shape, **how):
        return maxtext_layer(leaves, name, axis=axis, index=index, shape=shape, **how)

    check_gemma_of_maxtext(
        tmp_path, leaves, leaf_of, config=gemma_1_config(), score_scale=1.0
    )


def in_blocks(leaves, index, name, shape, *, axis, **how):
    """Six layers are scanned at a time, and what is left over lies alone."""
    block, place = divmod(index, 6)
    blocks = GEMMA_3_LAYERS // 6
    if block == blocks:
        return leaves.new(
            f"decoder.layers_remainder.layers_{place}.{name}", *shape, **how
        )
    whole = f"decoder.layers.layers_{place}.{name}"
    if whole not in leaves:
        leaves.new(whole, *shape[:axis], blocks, *shape[axis:], **how)
    return leaves[whole].take(block, axis=axis)


@pytest.mark.parametrize("axis", [None, 1, 0], ids=["alone", "scanned", "leading"])
@pytest.mark.parametrize("is_in_blocks", [True, False], ids=["in blocks", "in one"])
def test_gemma_3_of_maxtext_is_read(tmp_path, axis, is_in_blocks) -> None:
    leaves = Leaves()

    def leaf_of(index, name, shape, **how):
        if axis is not None and is_in_blocks:
            return in_blocks(leaves, index, name, shape, axis=axis, **how)
        if axis is None:
            return leaves.new(f"decoder.layers_{index}.{name}", *shape, **how)
        whole = f"decoder.layers.{name}"
        if whole not in leaves:
            leaves.new(whole, *shape[:axis], GEMMA_3_LAYERS, *shape[axis:], **how)
        return leaves[whole].take(index, axis=axis)

    check_gemma_of_maxtext(
        tmp_path, leaves, leaf_of, config=gemma_3_config(), score_scale=0.3
    )
