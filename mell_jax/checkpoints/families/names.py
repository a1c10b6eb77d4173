"""Says what the parameters of a decoder are made of, by the names in the files.

Most families use Llama's names; `Names` has those that differ. Matrices are kept as
[out, in], in Flax as [in, out].
"""

from dataclasses import dataclass

from mell_jax.checkpoints.families.family import ParameterPath, Sources
from mell_jax.checkpoints.sources import Slice, Source, Stack, Take, Transpose
from mell_jax.models.config import AttentionConfig, LayerConfig, ModelConfig, NormConfig

Found = dict[ParameterPath, Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """These are the names of a layer's parts; Llama's by default."""

    input_norm: str = "input_layernorm"
    attention_out_norm: str = "post_attention_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    mlp_out_norm: str = "post_feedforward_layernorm"
    norm: str = "norm"  # the last one
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    qkv: str | None = None  # one tensor for queries, keys and values, in this order
    gate_up: str | None = None  # one tensor for both
    head_norms: str | None = None  # below a norm, one tensor for each head: "norms"


LLAMA = Names()


def decoder_sources(config: ModelConfig, *, names: Names = LLAMA) -> Sources:
    """Returns what every parameter of `Decoder(config)` is made of."""
    found: Found = {("embed", "embedding"): Take("model.embed_tokens.weight")}
    for index, layer in enumerate(config.layers):
        found |= _layer(layer, index=index, names=names)
    found |= _norm(("norm",), f"model.{names.norm}", config.norm)
    if not config.tie_embeddings:
        found["lm_head", "kernel"] = Transpose(Take("lm_head.weight"))
    return found


def _layer(layer: LayerConfig, *, index: int, names: Names) -> Found:
    at, here = f"model.layers.{index}.", ("layers", index)
    is_before, is_after = layer.norm_places != "after", layer.norm_places != "before"
    norms = {
        "input_norm": is_before,
        "attention_out_norm": is_after,
        "mlp_norm": is_before and not layer.is_parallel,
        "mlp_out_norm": is_after,
    }
    found: Found = {}
    for name, is_there in norms.items():
        if is_there:
            found |= _norm((*here, name), at + getattr(names, name), layer.norm)
    found |= _attention(layer.attention, at=at, here=here, names=names)
    found |= _feed_forward(layer, at=at, here=here, names=names)
    return found


def _attention(
    attention: AttentionConfig, *, at: str, here: ParameterPath, names: Names
) -> Found:
    queries = attention.num_heads * attention.head_dim
    kv_width = attention.num_kv_heads * attention.head_dim
    ends = (queries, queries + kv_width, queries + 2 * kv_width)
    biases = (attention.query_bias, attention.key_bias, attention.value_bias)
    found: Found = {}
    start = 0
    for kind, end, has_bias in zip("qkv", ends, biases, strict=True):
        path = (*here, "attention", f"{kind}_proj")
        if names.qkv is None:
            found |= _linear(path, f"{at}self_attn.{kind}_proj", has_bias=has_bias)
        else:
            found |= _rows(path, at + names.qkv, start, end, has_bias=has_bias)
        start = end
    found |= _linear(
        (*here, "attention", "o_proj"),
        at + names.output,
        has_bias=attention.output_bias,
    )
    if attention.qk_norm is not None:
        for kind, heads in (
            ("q", attention.num_heads),
            ("k", attention.num_kv_heads),
        ):
            path = (*here, "attention", f"{kind}_norm")
            name = at + (names.q_norm if kind == "q" else names.k_norm)
            if names.head_norms is None:
                found |= _norm(path, name, attention.qk_norm)
            else:
                found |= _head_norms(path, f"{name}.{names.head_norms}", heads)
    return found


def _feed_forward(
    layer: LayerConfig, *, at: str, here: ParameterPath, names: Names
) -> Found:
    config, mlp = layer.feed_forward, (*here, "mlp")
    has_bias, size = config.has_bias, config.size
    found = _linear((*mlp, "down_proj"), at + names.down, has_bias=has_bias)
    if config.is_gated and names.gate_up is not None:
        whole = at + names.gate_up
        found |= _rows((*mlp, "gate_proj"), whole, 0, size, has_bias=has_bias)
        found |= _rows((*mlp, "up_proj"), whole, size, 2 * size, has_bias=has_bias)
        return found
    if config.is_gated:
        found |= _linear((*mlp, "gate_proj"), at + names.gate, has_bias=has_bias)
    return found | _linear((*mlp, "up_proj"), at + names.up, has_bias=has_bias)


def _linear(path: ParameterPath, name: str, *, has_bias: bool) -> Found:
    found: Found = {(*path, "kernel"): Transpose(Take(f"{name}.weight"))}
    if has_bias:
        found[*path, "bias"] = Take(f"{name}.bias")
    return found


def _rows(
    path: ParameterPath, name: str, start: int, stop: int, *, has_bias: bool
) -> Found:
    """A linear map that is some rows of a larger one."""
    kernel = Slice(Take(f"{name}.weight"), 0, start, stop)
    found: Found = {(*path, "kernel"): Transpose(kernel)}
    if has_bias:
        found[*path, "bias"] = Slice(Take(f"{name}.bias"), 0, start, stop)
    return found


def _norm(path: ParameterPath, name: str, config: NormConfig) -> Found:
    found: Found = {(*path, "scale"): Take(f"{name}.weight")}
    if config.has_bias:
        found[*path, "bias"] = Take(f"{name}.bias")
    return found


def _head_norms(path: ParameterPath, name: str, heads: int) -> Found:
    each = tuple(Take(f"{name}.{head}.weight") for head in range(heads))
    return {(*path, "scale"): Stack(each)}
