"""Knows the keys of a `config.json` that change what a model computes.

A family asks for the keys that it honours. Others of this table are refused unless
their value changes nothing: a key that nobody reads must not be dropped silently.
"""

from collections.abc import Mapping
from typing import Any

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import Fields, shown

_OFF = (False, 0)
_ONE = (1,)

ARITHMETIC: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            *("embedding_multiplier", "residual_multiplier", "logits_scaling"),
            *("logit_scale", "scale_emb", "scale_depth", "mup_width_scale"),
            *("partial_rotary_factor", "rotary_pct", "rope_pct"),
        ),
        _ONE,
    ),
    **dict.fromkeys(
        (
            *("final_logit_softcapping", "attn_logit_softcapping", "use_qk_norm"),
            *("qk_layernorm", "use_parallel_residual", "attention_multiplier"),
            *("dim_model_base", "query_pre_attn_scalar", "normalize_embedding"),
            *("num_local_experts", "num_experts", "n_routed_experts", "moe_layers"),
            *("num_experts_per_tok", "kv_lora_rank", "q_lora_rank", "clip_qkv"),
            *("rope_local_base_freq", "no_rope_layers", "no_rope_layer_interval"),
            *("sliding_window_pattern", "attention_chunk_size", "attn_temperature"),
            *("alibi", "use_alibi", "multi_query", "parallel_attn", "mamba_d_state"),
            *("layer_types", "sliding_window", "use_sliding_window"),
            *("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias", "qkv_bias"),
            *("hidden_activation", "num_kv_shared_layers", "altup_num_inputs"),
            *("hidden_size_per_layer_input", "attention_k_eq_v", "enable_moe_block"),
            *("llama_4_scaling", "attention_sink", "add_swa_attention_sink_bias"),
            "use_bidirectional_attention",
            "attention_out_bias",
        ),
        _OFF,
    ),
    "use_parallel_block": (True,),  # these are of Command R7B
    "use_gated_activation": (True,),
    "order_of_interleaved_layers": ("local_attn_first",),
}
"""Key -> values that change nothing."""


def check_known(fields: Fields, *, architecture: str) -> None:
    """Refuses what would change the arithmetic of a model and was not asked for.

    Raises:
      CheckpointError: naming the file, the key and the way out.
    """
    for key, neutral in ARITHMETIC.items():
        value = fields.values.get(key)
        if value is None or key in fields.asked or value in neutral:
            continue
        if isinstance(value, list | dict) and not value:
            continue
        if key == "layer_types" and set(value) == {"full_attention"}:
            continue
        raise CheckpointError(
            f"{fields.where}: {shown(key)} is {str(value)[:60]}, which {architecture} "
            "does not have here and which may change what the model computes; correct "
            "architectures, or take the key out if it has no effect"
        )
