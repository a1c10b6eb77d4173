"""Reads the trees of MaxText: Llama, Mistral, Qwen 2 and 3, Gemma 2; scanned or not.

Kernels are [D, N, H]; those of scanned layers have L on axis 1, or 0. Three things are
silent there. The query kernel is divided by sqrt(H), but for Qwen's, whose queries have
a norm or a bias. Channels that rotary positions turn together are neighbours in Llama
3.1. And the vocabulary is padded.

Source: `checkpoint_conversion/utils/param_mapping.py`, `layers/attentions.py` and
`layers/embeddings.py` of AI-Hypercomputer/maxtext.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mell_jax.checkpoints.families.family import Sources
from mell_jax.checkpoints.sources import (
    Affine,
    Pick,
    Reorder,
    Reshape,
    Slice,
    Source,
    Take,
)
from mell_jax.checkpoints.trees.layout import (
    Found,
    Shapes,
    TreeLayout,
    norm_names,
    projections,
)
from mell_jax.models.config import (
    AttentionConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope_scaling import Llama3Rope

_EMBEDDING = "token_embedder.embedding"
_LAST_NORM = "decoder.decoder_norm.scale"
_SCANNED = "decoder.layers."
_HEADS = {"q": "query", "k": "key", "v": "value"}
_MLP = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
_NORMS = {
    "input_norm": "pre_self_attention_layer_norm",
    "mlp_norm": "post_self_attention_layer_norm",
}
_GEMMA_NORMS = {
    "input_norm": "pre_self_attention_norm",
    "attention_out_norm": "post_self_attention_norm",
    "mlp_norm": "pre_ffw_norm",
    "mlp_out_norm": "post_ffw_norm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Says where the leaves of one of our layers are."""

    config: LayerConfig
    index: int
    width: int
    part: str = ""  # of theirs: Gemma 2's are pairs, of "_local" and "_global"
    leaf: Callable[[str], Source]

    @property
    def norms(self) -> dict[str, str]:
        return _GEMMA_NORMS if self.part else _NORMS


def _is_like(shapes: Shapes) -> bool:
    return _EMBEDDING in shapes and _LAST_NORM in shapes


def _sources(config: ModelConfig, shapes: Shapes) -> Sources:
    is_paired = any("self_attention_local." in name for name in shapes)
    embedding: Source = Slice(Take(_EMBEDDING), 0, 0, config.vocab_size)
    if is_paired:  # theirs is multiplied as Gemma multiplies what it looks up
        factor = 1.0 / config.embedding_multiplier
        embedding = Affine(embedding, factor=factor)
    found: Found = {
        ("embed", "embedding"): embedding,
        ("norm", "scale"): _scale(Take(_LAST_NORM), config.norm),
    }
    if not config.tie_embeddings:
        head = Take("decoder.logits_dense.kernel")
        found["lm_head", "kernel"] = Slice(head, 1, 0, config.vocab_size)
    leaf_in = _leaves(config, shapes, group=2 if is_paired else 1)
    for index, layer in enumerate(config.layers):
        part = ("_local", "_global")[index % 2] if is_paired else ""
        number = index // 2 if is_paired else index
        here = _Layer(
            config=layer,
            index=index,
            width=config.hidden_size,
            part=part,
            leaf=leaf_in(number),
        )
        found |= _attention(here) | _feed_forward(here) | _norms(here)
    return found


def _leaves(
    config: ModelConfig, shapes: Shapes, *, group: int
) -> Callable[[int], Callable[[str], Source]]:
    """Returns what names the leaves of a layer of theirs, scanned or alone."""
    scanned = [shape for name, shape in shapes.items() if name.startswith(_SCANNED)]
    count = config.num_layers // group
    # Where all leaves may have it on either axis, it is on the first of these.
    axes = (
        axis
        for axis in (1, 0)
        if all(len(shape) > axis and shape[axis] == count for shape in scanned)
    )
    axis = next(axes, 1)

    def leaf_in(number: int) -> Callable[[str], Source]:
        def leaf(name: str) -> Source:
            if not scanned:
                return Take(f"decoder.layers_{number}.{name}")
            return Pick(Take(f"{_SCANNED}{name}"), axis, number)

        return leaf

    return leaf_in


def _attention(here: _Layer) -> Found:
    attention, width = here.config.attention, here.width
    path, size = ("layers", here.index, "attention"), attention.head_dim
    at, found = f"self_attention{here.part}", Found()
    for one in projections(attention):
        heads, name = one.heads, f"{at}.{_HEADS[one.kind]}"
        kernel = _turned(here.leaf(f"{name}.kernel"), attention, one.kind, axis=2)
        if one.kind == "q" and _is_divided(attention):
            kernel = Affine(kernel, factor=math.sqrt(size))
        found[*path, f"{one.kind}_proj", "kernel"] = Reshape(
            kernel, (width, heads * size), (width, heads, size)
        )
        if one.has_bias:
            bias = _turned(here.leaf(f"{name}.bias"), attention, one.kind, axis=1)
            found[*path, f"{one.kind}_proj", "bias"] = Reshape(
                bias, (heads * size,), (heads, size)
            )
        if one.kind != "v" and attention.qk_norm is not None:
            norm = _scale(here.leaf(f"{name}_norm.scale"), attention.qk_norm)
            found[*path, f"{one.kind}_norm", "scale"] = norm
    heads = attention.num_heads
    found[*path, "o_proj", "kernel"] = Reshape(
        here.leaf(f"{at}.out.kernel"), (heads * size, width), (heads, size, width)
    )
    return found


def _feed_forward(here: _Layer) -> Found:
    path = ("layers", here.index, "mlp")
    return {
        (*path, name, "kernel"): here.leaf(f"mlp{here.part}.{theirs}.kernel")
        for name, theirs in _MLP.items()
        if name != "gate_proj" or here.config.feed_forward.is_gated
    }


def _norms(here: _Layer) -> Found:
    return {
        ("layers", here.index, name, "scale"): _scale(
            here.leaf(f"{here.norms.get(name, name)}{here.part}.scale"),
            here.config.norm,
        )
        for name in norm_names(here.config)
    }


def _is_divided(attention: AttentionConfig) -> bool:
    return attention.qk_norm is None and not attention.query_bias


def _turned(
    source: Source, attention: AttentionConfig, kind: str, *, axis: int
) -> Source:
    """Puts channels that turn together half a head apart, where ours are so."""
    rope = attention.rope
    if kind == "v" or rope is None or rope.is_interleaved:
        return source
    if not isinstance(rope.scaling, Llama3Rope):
        return source
    size = attention.head_dim
    return Reorder(source, axis, (*range(0, size, 2), *range(1, size, 2)))


def _scale(source: Source, norm: NormConfig) -> Source:
    """Theirs is multiplied by as it is, ours may be what is added to one."""
    return Affine(source, plus=-1.0) if norm.is_offset else source


MAXTEXT = TreeLayout(program="MaxText", is_like=_is_like, sources=_sources)
