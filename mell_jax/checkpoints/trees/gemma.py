"""Reads the checkpoints of google-deepmind/gemma, Gemma 1 to 3, flat or nested.

Query and key-value weights are [N, D, H] and [2, K, D, H], or in one [3, N, D, H]; the
two maps of the gate are [2, D, F] in Gemma 1 and [2, F, D] later. Norms keep what is
added to one, as ours with `is_offset`.

Source: `gemma/gm/nn/_modules.py` and `gemma/gm/ckpts/_compat.py` of that repository.
"""

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import Sources
from mell_jax.checkpoints.sources import Pick, Reshape, Source, Take, Transpose
from mell_jax.checkpoints.trees.layout import (
    Found,
    Shapes,
    TreeLayout,
    first_of,
    norm_names,
)
from mell_jax.models.config import AttentionConfig, LayerConfig, ModelConfig

_EMBEDDING = "embedder.input_embedding"
_NORMS = {
    "input_norm": ("pre_attention_norm",),
    "attention_out_norm": ("post_attention_norm", "post_attn_norm"),
    "mlp_norm": ("pre_ffw_norm",),
    "mlp_out_norm": ("post_ffw_norm",),
}


def _is_like(shapes: Shapes) -> bool:
    return _EMBEDDING in shapes and "layer_0.pre_attention_norm.scale" in shapes


def _sources(config: ModelConfig, shapes: Shapes) -> Sources:
    found = gemma_ends()
    for index, layer in enumerate(config.layers):
        here, width = f"layer_{index}", config.hidden_size
        found |= gemma_layer(layer, index=index, here=here, width=width, shapes=shapes)
        found |= _feed_forward(
            layer, index=index, here=here, width=width, shapes=shapes
        )
    return found


def gemma_ends() -> Found:
    """Returns the embedding, which is the head as well, and the last norm."""
    return {
        ("embed", "embedding"): Take(_EMBEDDING),
        ("norm", "scale"): Take("final_norm.scale"),
    }


def gemma_layer(
    layer: LayerConfig, *, index: int, here: str, width: int, shapes: Shapes
) -> Found:
    """Returns attention and norms of a layer whose names begin with `here`."""
    found = _attention(
        layer.attention, index=index, at=f"{here}.attn", width=width, shapes=shapes
    )
    for name in norm_names(layer):
        theirs = [f"{here}.{one}.scale" for one in _NORMS[name]]
        found["layers", index, name, "scale"] = Take(first_of(theirs, shapes=shapes))
    return found


def _attention(
    attention: AttentionConfig, *, index: int, at: str, width: int, shapes: Shapes
) -> Found:
    size, heads, kv = attention.head_dim, attention.num_heads, attention.num_kv_heads
    if f"{at}.qkv_einsum.w" in shapes:
        whole = Take(f"{at}.qkv_einsum.w")
        weights: list[tuple[str, Source, int]] = [
            (kind, Pick(whole, 0, number), heads) for number, kind in enumerate("qkv")
        ]
    else:
        pair = Take(f"{at}.kv_einsum.w")
        weights = [
            ("q", Take(f"{at}.q_einsum.w"), heads),
            ("k", Pick(pair, 0, 0), kv),
            ("v", Pick(pair, 0, 1), kv),
        ]
    path, found = ("layers", index, "attention"), Found()
    for kind, weight, count in weights:  # [N, D, H]
        found[*path, f"{kind}_proj", "kernel"] = Reshape(
            Transpose(weight, (1, 0, 2)), (width, count * size), (width, count, size)
        )
    found[*path, "o_proj", "kernel"] = Reshape(
        Take(f"{at}.attn_vec_einsum.w"), (heads * size, width), (heads, size, width)
    )
    if attention.qk_norm is not None:
        found[*path, "q_norm", "scale"] = Take(f"{at}._query_norm.scale")
        found[*path, "k_norm", "scale"] = Take(f"{at}._key_norm.scale")
    return found


def _feed_forward(
    layer: LayerConfig, *, index: int, here: str, width: int, shapes: Shapes
) -> Found:
    size = layer.feed_forward.size
    gating, linear = (
        first_of([f"{here}.mlp.{name}", f"{here}.mlp.{name}.w"], shapes=shapes)
        for name in ("gating_einsum", "linear")
    )
    is_turned = shapes.get(gating) == (2, size, width)
    if is_turned and size == width:
        raise CheckpointError(
            f"{gating}: [2, {size}, {width}] may be either way round, since both sizes "
            "are equal; convert these parameters to a Decoder's"
        )
    path, found = ("layers", index, "mlp"), Found()
    for number, name in enumerate(("gate_proj", "up_proj")):
        kernel: Source = Pick(Take(gating), 0, number)
        found[*path, name, "kernel"] = Transpose(kernel) if is_turned else kernel
    found[*path, "down_proj", "kernel"] = Take(linear)
    return found


GEMMA = TreeLayout(
    program="google-deepmind/gemma",
    is_like=_is_like,
    sources=_sources,
    ignored=("vision_encoder.", "SigLiPFromPatches_0.", "embedder.mm_"),
)
