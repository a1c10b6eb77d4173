"""Very small GGUF files, written by the package `gguf` as llama.cpp does it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED, VOCAB = 2, 256, 4, 2, 64, 256, 48
EPS = float(np.float32(1e-5))  # as a file can hold it

PARTS = {
    "attn_norm": ("input_layernorm", (HIDDEN,)),
    "attn_q": ("self_attn.q_proj", (HEADS * HEAD_DIM, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM)),
    "ffn_norm": ("post_attention_layernorm", (HIDDEN,)),
    "ffn_gate": ("mlp.gate_proj", (FEED, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (FEED, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, FEED)),
}
BIASES = {
    f"attn_{kind}": (f"self_attn.{kind}_proj", (heads * HEAD_DIM,))
    for kind, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
}
QK_NORMS = {
    f"attn_{kind}_norm": (f"self_attn.{kind}_norm", (HEAD_DIM,)) for kind in "qk"
}
WHOLE = {
    "token_embd": ("model.embed_tokens", (VOCAB, HIDDEN)),
    "output_norm": ("model.norm", (HIDDEN,)),
    "output": ("lm_head", (VOCAB, HIDDEN)),
}
NORM, PRE_FEED = "post_attention_layernorm", "pre_feedforward_layernorm"
SANDWICH = {
    "post_attention_norm": (NORM, (HIDDEN,)),
    "ffn_norm": (PRE_FEED, (HIDDEN,)),
    "post_ffw_norm": ("post_feedforward_layernorm", (HIDDEN,)),
}
QKV_ROWS = (HEADS + 2 * KV_HEADS) * HEAD_DIM
FUSED = {
    "attn_qkv": ("self_attn.qkv_proj", (QKV_ROWS, HIDDEN)),
    "ffn_up": ("mlp.gate_up_proj", (2 * FEED, HIDDEN)),
}
SPLIT = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight")
GEMMAS = ("gemma", "gemma2", "gemma3")
CLASSES = {
    **{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3"},
    **{"gemma": "Gemma", "gemma2": "Gemma2", "gemma3": "Gemma3"},
}
MODEL_TYPES = {"gemma3": "gemma3_text"}
OWN_KEYS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"rope.freq_base": None, "rope.dimension_count": None},
    "gemma2": {
        "rope.freq_base": None,
        "rope.dimension_count": None,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "attention.sliding_window": 5,
    },
    "gemma3": {
        "rope.dimension_count": None,
        "attention.sliding_window": 5,
        "attention.sliding_window_pattern": 2,
    },
    "phi3": {
        "attention.key_length": None,
        "attention.value_length": None,
        "attention.sliding_window": 0,
        "rope.scaling.original_context_length": 512,
    },
}
"""What the converter writes for these alone, and what it leaves out."""
OWN_VALUES: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 10_000.0},
    "gemma2": {
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 10_000.0,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 5,
        "query_pre_attn_scalar": HEAD_DIM,
    },
    "gemma3": {
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 5,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": HEAD_DIM,
    },
    "phi3": {"original_max_position_embeddings": 512, "sliding_window": None},
}
"""The same in a `config.json`."""
K_QUANT_SCALES = {"Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210), "Q2_K": (80, 84)}
"""Where the 16-bit floats of a block are, in blocks that the package cannot make."""


def names(architecture: str, *, is_tied: bool) -> dict[str, tuple[str, tuple]]:
    """Hugging Face's name and the shape of each tensor, by the name in the file."""
    found = {
        f"{name}.weight": (f"{hf}.weight", shape)
        for name, (hf, shape) in WHOLE.items()
        if not (is_tied and name == "output")
    }
    parts = {f"{name}.weight": (f"{hf}.weight", s) for name, (hf, s) in PARTS.items()}
    if architecture == "qwen2":
        parts |= {f"{n}.bias": (f"{hf}.bias", s) for n, (hf, s) in BIASES.items()}
    more = QK_NORMS if architecture in ("qwen3", "gemma3") else {}
    if architecture in ("gemma2", "gemma3"):
        more = more | SANDWICH
    if architecture == "phi3":
        more = more | FUSED
        parts = {n: part for n, part in parts.items() if n not in SPLIT}
    parts |= {f"{n}.weight": (f"{hf}.weight", s) for n, (hf, s) in more.items()}
    for layer in range(LAYERS):
        for name, (hf, shape) in parts.items():
            found[f"blk.{layer}.{name}"] = (f"model.layers.{layer}.{hf}", shape)
    return found


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    """Keys without the architecture's name; a change to None takes one away."""
    values = {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": HIDDEN,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 50_000.0,
        "rope.dimension_count": HEAD_DIM,
        "vocab_size": VOCAB,
        **OWN_KEYS.get(architecture, {}),
        **changes,
    }
    return {
        key if "tokenizer." in key or "general." in key else f"{architecture}.{key}": v
        for key, v in values.items()
        if v is not None
    }


def config_values(architecture: str, *, is_tied: bool, **changes: Any) -> dict:
    """The `config.json` of the same model."""
    return {
        "architectures": [f"{CLASSES[architecture]}ForCausalLM"],
        "model_type": MODEL_TYPES.get(architecture, architecture),
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": EPS,
        "rope_theta": 50_000.0,
        "tie_word_embeddings": is_tied,
        **OWN_VALUES.get(architecture, {}),
        **changes,
    }


def add_value(writer: Any, key: str, value: Any) -> None:
    """A value with the type that the converter gives it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does with the queries and keys of Llama."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def packed(values: np.ndarray, kind: str, random: np.random.Generator) -> np.ndarray:
    """Blocks of a format; where the package cannot quantise, any blocks there are."""
    number = gguf.GGMLQuantizationType[kind]
    if kind not in K_QUANT_SCALES:
        return gguf.quants.quantize(values, number)
    block, size = gguf.GGML_QUANT_SIZES[number]
    count = values.size // block
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    start, end = K_QUANT_SCALES[kind]
    scales = random.uniform(1e-4, 4e-4, (count, (end - start) // 2))
    blocks[:, start:end] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(values.shape[0], -1)


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    kind: str = "F32",
    is_tied: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Writes a model; returns the same values under Hugging Face's names, float32.

    Args:
      kind: of the matrices; the rest is float32.
      more: tensors besides.
      without: tensors that are left out.
      changes: of the metadata.
    """
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata(architecture, **changes).items():
        add_value(writer, key, value)
    stored = {}
    for name, (hf, shape) in names(architecture, is_tied=is_tied).items():
        if name in without:
            continue
        values = random.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        heads = {"attn_q.": HEADS, "attn_k.": KV_HEADS}
        found = [n for part, n in heads.items() if part in name]
        is_moved = architecture == "llama" and found
        if len(shape) == 2:
            blocks = packed(values, kind, random)
            number = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, blocks, raw_dtype=number)
            values = gguf.quants.dequantize(blocks, number).reshape(shape)
        else:
            plus = np.float32(architecture in GEMMAS and "norm" in name)
            writer.add_tensor(name, values + plus)
            values = (values + plus) - plus
        stored[hf] = restored(values, found[0]) if is_moved else values
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def restored(values: np.ndarray, heads: int) -> np.ndarray:
    """The reverse of `interleaved`, found by moving numbers of rows."""
    moved = interleaved(np.arange(values.shape[0]), heads)
    out = np.empty_like(values)
    out[moved] = values
    return out
