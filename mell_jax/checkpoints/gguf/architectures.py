"""Knows the architectures of GGUF that are read: their names, and what differs.

    blk.0.attn_q.weight  ->  model.layers.0.self_attn.q_proj.weight

llama.cpp turns neighbouring channels together and reorders queries and keys of Llama
for it, and keeps one plus the scale of Gemma's norms; that is undone while they are
read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.gemma import GEMMA
from mell_jax.checkpoints.families.gemma2 import GEMMA2
from mell_jax.checkpoints.families.gemma3 import GEMMA3
from mell_jax.checkpoints.families.llama import LLAMA
from mell_jax.checkpoints.families.phi3 import PHI3
from mell_jax.checkpoints.families.qwen import QWEN2, QWEN3
from mell_jax.checkpoints.gguf.metadata import Metadata
from mell_jax.checkpoints.gguf.own_keys import (
    gemma2_keys,
    gemma3_keys,
    no_keys,
    phi3_keys,
)
from mell_jax.checkpoints.sources import Affine, Reorder, Source, Take
from mell_jax.models.config import ModelConfig

_LAYERS = "model.layers."
_WHOLE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_NORM = "norm.weight"
_QUERIES, _KEYS = "self_attn.q_proj", "self_attn.k_proj"
_PARTS = {
    "input_layernorm": "attn_norm",
    _QUERIES: "attn_q",
    _KEYS: "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SANDWICH_PARTS = _PARTS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_FUSED_PARTS = _PARTS | {
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """An architecture of llama.cpp is a family here, stored in another way.

    Attributes:
      family: the same in Hugging Face's words.
      parts: names of a layer's parts, by the family's.
      bias_keys: of a `config.json`, by which the family knows whether a part has one.
      is_reordered: whether rows of queries and keys lie pair by pair.
      has_offset_norms: whether norms lie as what they multiply by, one plus a scale.
      has_partial_rope: whether only some channels of a head may turn.
      own_keys: reads metadata that others do not have.
    """

    family: Family
    parts: Mapping[str, str]
    bias_keys: Mapping[str, str] = field(default_factory=dict)
    is_reordered: bool = False
    has_offset_norms: bool = False
    has_partial_rope: bool = False
    own_keys: Callable[[Metadata], dict[str, Any]] = no_keys

    def sources(self, config: ModelConfig) -> Sources:
        """Returns what every parameter is made of, by the names in the file."""
        orders: dict[tuple[int, int], tuple[int, ...]] = {}  # layers share them

        def stored(take: Take) -> Source:
            found, heads = Take(self.stored_name(take.name)), _heads(take.name, config)
            if self.has_offset_norms and take.name.endswith(_NORM):
                return Affine(found, plus=-1.0)
            if not self.is_reordered or heads is None:
                return found
            if heads not in orders:
                orders[heads] = halves_of_pairs(*heads)
            return Reorder(found, 0, orders[heads])

        return {
            path: _with_takes(source, stored)
            for path, source in self.family.weights(config).items()
        }

    def stored_name(self, name: str) -> str:
        """Returns the file's word for one of the family's tensors."""
        whole, _, kind = name.rpartition(".")
        if not whole.startswith(_LAYERS):
            return f"{_WHOLE[whole]}.{kind}"
        index, _, part = whole.removeprefix(_LAYERS).partition(".")
        return f"blk.{index}.{self.parts[part]}.{kind}"


def _heads(name: str, config: ModelConfig) -> tuple[int, int] | None:
    """How many heads, and of what size, queries and keys have; None for others."""
    if not name.startswith(_LAYERS):
        return None
    index, _, part = name.removeprefix(_LAYERS).partition(".")
    attention = config.layers[int(index)].attention
    heads = {_QUERIES: attention.num_heads, _KEYS: attention.num_kv_heads}
    found = heads.get(part.rpartition(".")[0])
    return None if found is None else (found, attention.head_dim)


def halves_of_pairs(heads: int, head_dim: int) -> tuple[int, ...]:
    """Returns where the rows of a head lie whose halves were interleaved.

    >>> halves_of_pairs(1, 6)
    (0, 2, 4, 1, 3, 5)
    """
    return tuple(
        head * head_dim + channel
        for head in range(heads)
        for half in (0, 1)
        for channel in range(half, head_dim, 2)
    )


def _with_takes(source: Source, change: Callable[[Take], Source]) -> Source:
    """The same source with others in place of the tensors that it takes."""
    if isinstance(source, Take):
        return change(source)
    assert is_dataclass(source), source
    changed: dict[str, Any] = {}
    for one in fields(source):
        value = getattr(source, one.name)
        if isinstance(value, Source):
            changed[one.name] = _with_takes(value, change)
        elif isinstance(value, tuple) and any(isinstance(v, Source) for v in value):
            changed[one.name] = tuple(_with_takes(inner, change) for inner in value)
    return replace(source, **changed)


GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture(
        family=LLAMA,
        parts=_PARTS,
        bias_keys={"attention_bias": _QUERIES, "mlp_bias": "mlp.up_proj"},
        is_reordered=True,
    ),
    "qwen2": GgufArchitecture(family=QWEN2, parts=_PARTS),
    "qwen3": GgufArchitecture(
        family=QWEN3, parts=_PARTS, bias_keys={"attention_bias": _QUERIES}
    ),
    "gemma": GgufArchitecture(family=GEMMA, parts=_PARTS, has_offset_norms=True),
    "gemma2": GgufArchitecture(
        family=GEMMA2,
        parts=_SANDWICH_PARTS,
        has_offset_norms=True,
        own_keys=gemma2_keys,
    ),
    "gemma3": GgufArchitecture(
        family=GEMMA3,
        parts=_SANDWICH_PARTS,
        has_offset_norms=True,
        own_keys=gemma3_keys,
    ),
    "phi3": GgufArchitecture(
        family=PHI3, parts=_FUSED_PARTS, has_partial_rope=True, own_keys=phi3_keys
    ),
}
"""By `general.architecture`."""
