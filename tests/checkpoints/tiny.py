"""A very small model directory, and ways to spoil it."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.hf_config import CheckpointSpec, parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

LAYER = "model.layers.0."
SHAPES = {
    "model.embed_tokens.weight": (8, 64),
    LAYER + "input_layernorm.weight": (64,),
    LAYER + "self_attn.q_proj.weight": (64, 64),
    LAYER + "self_attn.k_proj.weight": (32, 64),
    LAYER + "self_attn.v_proj.weight": (32, 64),
    LAYER + "self_attn.o_proj.weight": (64, 64),
    LAYER + "post_attention_layernorm.weight": (64,),
    LAYER + "mlp.gate_proj.weight": (48, 64),
    LAYER + "mlp.up_proj.weight": (48, 64),
    LAYER + "mlp.down_proj.weight": (64, 48),
    "model.norm.weight": (64,),
    "lm_head.weight": (8, 64),
}


def config_values(**changes: Any) -> dict[str, Any]:
    """A `config.json` for `SHAPES`; a change to None takes the key away."""
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def tensors(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape).astype(dtype)
        for name, shape in SHAPES.items()
    }


def write_config(directory: Path, **changes: Any) -> None:
    (directory / "config.json").write_text(json.dumps(config_values(**changes)))


def write_model(
    directory: Path, stored: dict[str, np.ndarray] | None = None, **changes: Any
) -> Path:
    write_config(directory, **changes)
    save_file(tensors() if stored is None else stored, directory / "model.safetensors")
    return directory


def write_shards(directory: Path, names: tuple[str, str] = ("a", "b")) -> Path:
    """The same model in two files and an index."""
    write_config(directory)
    first = set(list(SHAPES)[:5])
    weight_map = {}
    for is_first, name in zip((True, False), names, strict=True):
        part = {k: v for k, v in tensors().items() if (k in first) == is_first}
        save_file(part, directory / f"{name}.safetensors")
        weight_map |= dict.fromkeys(part, f"{name}.safetensors")
    write_index(directory, weight_map)
    return directory


def write_index(directory: Path, weight_map: object) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@functools.cache
def decoder(dtype: Any = np.float32, **options: Any) -> Decoder:
    """A decoder of random parameters; never changed, so made once for all tests."""
    config = uniform_config(
        **{
            "vocab_size": 8,
            "hidden_size": 64,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 2,
            "num_kv_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 128,
            **options,
        }
    )
    return decoder_of(config, dtype=dtype)


def parsed(values: dict[str, Any]) -> CheckpointSpec:
    """What the values of a `config.json` say."""
    return parse_spec(
        Fields(values, "config.json"),
        generation=Fields({}, "generation_config.json"),
    )


def decoder_of(config: ModelConfig, *, dtype: Any = np.float32) -> Decoder:
    """A decoder of random parameters."""
    random = np.random.default_rng(0)
    model = abstract_decoder(config, dtype=dtype)
    values = {
        path: jnp.asarray(random.standard_normal(param.shape, np.float32).astype(dtype))
        for path, param in model.items()
    }
    return nnx.merge(model.graphdef, model.state(values))


def on_one_device(path: object, shape: object) -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def arrays(state: Any) -> dict[tuple[str | int, ...], np.ndarray]:
    """The values of a state by path."""
    return {path: np.asarray(param[...]) for path, param in nnx.to_flat_state(state)}
