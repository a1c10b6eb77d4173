"""Writes a Llama of Hugging Face's format as the GGUF file that llama.cpp reads.

Nothing is quantized: every tensor stays in float32. The vocabulary is made up, since
token ids are all that is asked for. Needs gguf and nothing of ours; `llama_side` calls.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FAMILY = "LlamaForCausalLM"
TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NUMBERS = {"F32": np.float32, "F16": np.float16}

Float32Array = npt.NDArray[np.float32]


def write_gguf(directory: Path, *, path: Path) -> None:
    """Converts the model of `directory`, a Llama without scaled rotary angles.

    Raises:
      ValueError: the model is another one, or its tensors have another type or name.
    """
    gguf = importlib.import_module("gguf")
    config = json.loads((directory / "config.json").read_text())
    _refuse(config)
    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer, config)
    _write_vocabulary(writer, config["vocab_size"], gguf.TokenType)
    for file in sorted(directory.glob("*.safetensors")):
        stored = importlib.import_module("gguf.utility").SafetensorsLocal(file)
        for name, tensor in stored.tensors.items():
            writer.add_tensor(gguf_name(name), _values(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """Returns llama.cpp's name of a tensor.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight")
    'blk.3.attn_q.weight'

    Raises:
      ValueError: a Llama has no such tensor.
    """
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part = rest.removesuffix(".weight")
    if not (layer.isdigit() and part in LAYER_NAMES):
        raise ValueError(f"{name} is no tensor of a Llama")
    return f"blk.{layer}.{LAYER_NAMES[part]}.weight"


def interleave(weight: Float32Array, *, heads: int) -> Float32Array:
    """Moves the two halves of each head's rows between each other.

    Hugging Face turns row i of a head of H rows with row i + H/2; llama.cpp turns
    neighbours.

    >>> interleave(np.arange(8.0).reshape(8, 1), heads=2).ravel()
    array([0., 2., 1., 3., 4., 6., 5., 7.])

    Args:
      weight: [heads * H, D].
      heads: of queries or of keys.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _refuse(config: dict[str, Any]) -> None:
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if config.get("architectures") != [FAMILY] or scaling != "default":
        raise ValueError(
            f"only {FAMILY} without scaled rotary angles is compared with llama.cpp, "
            f"not {config.get('architectures')} with {scaling}"
        )


def _write_shape(writer: Any, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope.get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all in float32


def _write_vocabulary(writer: Any, size: int, kind: Any) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{token}" for token in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([kind.NORMAL] * size)
    writer.add_add_bos_token(False)


def _values(name: str, tensor: Any, config: dict[str, Any]) -> Float32Array:
    raw = np.frombuffer(bytes(tensor.mmap_bytes()), dtype=np.uint8)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in NUMBERS:
        values = raw.view(NUMBERS[tensor.dtype]).astype(np.float32)
    else:
        raise ValueError(f"{name} is {tensor.dtype}; give float32, float16 or bfloat16")
    values = values.reshape(tensor.shape)
    heads = config["num_attention_heads"]
    if name.endswith("q_proj.weight"):
        return interleave(values, heads=heads)
    if name.endswith("k_proj.weight"):
        return interleave(values, heads=config.get("num_key_value_heads", heads))
    return values
