"""Reads the state of Tunix' own modules: Llama 3, Qwen 2 and 3, Gemma 1 to 3.

Einsum weights are `w`, [D, N, H] in Llama and Qwen, as in google-deepmind/gemma in
Gemma; feed-forward maps are Flax's own. LoRA parameters have to be merged before.
Llama and Qwen 3 of Tunix 0.1.7 rotate by the base 1,000,000 whatever their config says:
a `ModelConfig` for parameters that were trained there has to say so.

Source: `tunix/models/*/model.py` and `params.py` of google/tunix.
"""

from mell_jax.checkpoints.families.family import Sources
from mell_jax.checkpoints.sources import Reshape, Take
from mell_jax.checkpoints.trees.gemma import gemma_ends, gemma_layer
from mell_jax.checkpoints.trees.layout import (
    Found,
    Shapes,
    TreeLayout,
    norm_names,
    projections,
)
from mell_jax.models.config import LayerConfig, ModelConfig

_EMBEDDING = "embedder.input_embedding"
_NORMS = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def _is_like(shapes: Shapes) -> bool:
    return _EMBEDDING in shapes and "layers.0.mlp.up_proj.kernel" in shapes


def _sources(config: ModelConfig, shapes: Shapes) -> Sources:
    is_gemma = "final_norm.scale" in shapes
    found = gemma_ends() if is_gemma else _ends(config)
    for index, layer in enumerate(config.layers):
        here, width = f"layers.{index}", config.hidden_size
        found |= _feed_forward(index, here=here)
        if is_gemma:
            found |= gemma_layer(
                layer, index=index, here=here, width=width, shapes=shapes
            )
        else:
            found |= _layer(layer, index=index, here=here, width=width)
    return found


def _ends(config: ModelConfig) -> Found:
    found: Found = {
        ("embed", "embedding"): Take(_EMBEDDING),
        ("norm", "scale"): Take("final_norm.w"),
    }
    if not config.tie_embeddings:
        found["lm_head", "kernel"] = Take("lm_head.w")
    return found


def _feed_forward(index: int, *, here: str) -> Found:
    return {
        ("layers", index, "mlp", name, "kernel"): Take(f"{here}.mlp.{name}.kernel")
        for name in ("gate_proj", "up_proj", "down_proj")
    }


def _layer(layer: LayerConfig, *, index: int, here: str, width: int) -> Found:
    path, attention = ("layers", index, "attention"), layer.attention
    size, queries = attention.head_dim, attention.num_heads
    found = Found()
    for one in projections(attention):
        found[*path, f"{one.kind}_proj", "kernel"] = Reshape(
            Take(f"{here}.attn.{one.kind}_proj.w"),
            (width, one.heads * size),
            (width, one.heads, size),
        )
        if one.has_bias:
            bias = Take(f"{here}.attn.{one.kind}_bias")
            found[*path, f"{one.kind}_proj", "bias"] = bias
        if one.kind != "v" and attention.qk_norm is not None:
            norm = Take(f"{here}.attn.{one.kind}_norm.w")
            found[*path, f"{one.kind}_norm", "scale"] = norm
    found[*path, "o_proj", "kernel"] = Reshape(
        Take(f"{here}.attn.o_proj.w"), (queries * size, width), (queries, size, width)
    )
    for name in norm_names(layer):
        scale = Take(f"{here}.{_NORMS.get(name, name)}.w")
        found["layers", index, name, "scale"] = scale
    return found


TUNIX = TreeLayout(
    program="Tunix",
    is_like=_is_like,
    sources=_sources,
    ignored=("vision_encoder.", "embedder.mm_"),
)
