"""Reads the trees of MaxText: Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3.

Kernels are [D, N, H]; those of scanned layers have L on axis 1, or 0. Four things are
silent there. The query kernel is multiplied by the scale of scores, but for those whose
queries have a norm or a bias. Channels that rotary positions turn together are
neighbours in Llama 3.1. Gemma's embedding is multiplied already, and its norms are what
they multiply by. And the vocabulary is padded.

Source: `checkpoint_conversion/utils/param_mapping.py`, `layers/attentions.py` and
`layers/embeddings.py` of AI-Hypercomputer/maxtext.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mell_jax.checkpoints.families.family import Sources
from mell_jax.checkpoints.sources import (
    Affine,
    Pick,
    Reorder,
    Reshape,
    Shape,
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
_BLOCK = f"{_SCANNED}layers_"  # a number follows: of a layer within each block
_REMAINDER = "decoder.layers_remainder.layers_"
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
    norms: Mapping[str, str]
    leaf: Callable[[str], Source]


def _is_like(shapes: Shapes) -> bool:
    return _EMBEDDING in shapes and _LAST_NORM in shapes


def _sources(config: ModelConfig, shapes: Shapes) -> Sources:
    is_paired = _has(shapes, "self_attention_local.")
    is_gemma = _has(shapes, _GEMMA_NORMS["input_norm"])
    embedding: Source = Slice(Take(_EMBEDDING), 0, 0, config.vocab_size)
    if is_gemma:  # theirs is multiplied as Gemma multiplies what it looks up
        factor = 1.0 / config.embedding_multiplier
        embedding = Affine(embedding, factor=factor)
    found: Found = {
        ("embed", "embedding"): embedding,
        ("norm", "scale"): _scale(Take(_LAST_NORM), config.norm),
    }
    if not config.tie_embeddings:
        head = Take("decoder.logits_dense.kernel")
        found["lm_head", "kernel"] = Slice(head, 1, 0, config.vocab_size)
    leaf_in = _leaves(config, shapes, pairs=is_paired)
    for index, layer in enumerate(config.layers):
        here = _Layer(
            config=layer,
            index=index,
            width=config.hidden_size,
            part=("_local", "_global")[index % 2] if is_paired else "",
            norms=_GEMMA_NORMS if is_gemma else _NORMS,
            leaf=leaf_in(index // 2 if is_paired else index),
        )
        found |= _attention(here) | _feed_forward(here) | _norms(here)
    return found


def _has(shapes: Shapes, part: str) -> bool:
    return any(part in name for name in shapes)


def _leaves(
    config: ModelConfig, shapes: Shapes, *, pairs: bool
) -> Callable[[int], Callable[[str], Source]]:
    """Returns what names the leaves of a layer of theirs, scanned or alone.

    Gemma 3's are scanned in blocks of six, those that are left over lie alone.
    """
    scanned = {name: s for name, s in shapes.items() if name.startswith(_SCANNED)}
    layers = config.num_layers // 2 if pairs else config.num_layers
    if not scanned:
        return lambda number: lambda name: Take(f"decoder.layers_{number}.{name}")
    places = {name.split(".")[2] for name in scanned if name.startswith(_BLOCK)}
    size = len(places) or 1
    axis = _axis_of(scanned.values(), count=layers // size)

    def leaf_in(number: int) -> Callable[[str], Source]:
        block, place = divmod(number, size)

        def leaf(name: str) -> Source:
            if places and block >= layers // size:
                return Take(f"{_REMAINDER}{place}.{name}")
            start = f"{_BLOCK}{place}." if places else _SCANNED
            return Pick(Take(f"{start}{name}"), axis, block)

        return leaf

    return leaf_in


def _axis_of(shapes: Iterable[Shape], *, count: int) -> int:
    """Where all leaves may have the layers on axis 1 or 0, they are on 1."""
    shapes = list(shapes)
    axes = (
        axis
        for axis in (1, 0)
        if all(len(shape) > axis and shape[axis] == count for shape in shapes)
    )
    return next(axes, 1)


def _attention(here: _Layer) -> Found:
    attention, width = here.config.attention, here.width
    path, size = ("layers", here.index, "attention"), attention.head_dim
    at, found = f"self_attention{here.part}", Found()
    for one in projections(attention):
        heads, name = one.heads, f"{at}.{_HEADS[one.kind]}"
        kernel = _turned(here.leaf(f"{name}.kernel"), attention, one.kind, axis=2)
        if one.kind == "q" and _is_scaled(attention):
            kernel = Affine(kernel, factor=1.0 / attention.score_scale)
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


def _is_scaled(attention: AttentionConfig) -> bool:
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


MAXTEXT = TreeLayout(
    program="MaxText",
    is_like=_is_like,
    sources=_sources,
    ignored=("vision_encoder.",),
)
