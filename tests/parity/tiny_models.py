"""Tiny random models of every family, in Hugging Face's format.

The weights follow from the seed, so only what transformers computed with them is kept
(`goldens/`, written by `make_goldens.py`). Those of `tiny_families.py` are made of
what our own families say of their tensors: transformers must find each of them.

    for family in families().values():
        write_hf(directory, family)
        model = load_model(directory, ...)
        golden = load_golden(family.name)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.parity.tiny_families import COMMON, TINY_FAMILIES, made_of_sources

GOLDENS = Path(__file__).parent / "goldens"
PROMPT_TOKENS = (1, 7, 33, 130)
"""Lengths of the prompts whose greedy continuation is kept."""
GREEDY_TOKENS = 256
PREFILL_TOKENS = 16
DECODE_TOKENS = 64
VOCAB_SIZE = 256
MAX_POSITIONS = 512

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One tiny model: its `config.json` and the seed of its weights."""

    name: str
    config: dict[str, Any]
    seed: int
    out_norm_gain: float = 1.0
    is_slow: bool = False  # in the tests of the whole engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What transformers computes with a tiny model, float32 and eager attention."""

    prompt: IntArray  # [PREFILL_TOKENS]
    decoded: IntArray  # [DECODE_TOKENS], greedy, after `prompt`
    prefill_logits: FloatArray  # [PREFILL_TOKENS, V]
    decode_logits: FloatArray  # [DECODE_TOKENS, V], row i after decoded[i] was fed
    greedy: dict[int, IntArray]  # prompt length -> [GREEDY_TOKENS] after prompt(length)


def families() -> dict[str, Family]:
    """All tiny models by name; none has an end-of-sequence token."""
    return {family.name: family for family in (*_FAMILIES, *_MORE)}


def prompt(length: int) -> IntArray:
    """The prompt of `length` tokens that the goldens start from, the same for all."""
    return np.random.default_rng(length).integers(0, VOCAB_SIZE, length, dtype=np.int32)


def load_golden(name: str) -> Golden:
    """The committed results of the family `name`."""
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
        return Golden(
            prompt=file["prompt"],
            decoded=file["decoded"],
            prefill_logits=file["prefill_logits"],
            decode_logits=file["decode_logits"],
            greedy={length: file[f"greedy_{length}"] for length in PROMPT_TOKENS},
        )


def write_hf(directory: Path, family: Family) -> None:
    """Writes `config.json` and `model.safetensors` into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(family.config, indent=2))
    save_file(
        weights(family), directory / "model.safetensors", metadata={"format": "pt"}
    )


def weights(family: Family) -> dict[str, FloatArray]:
    """All tensors of `family` by Hugging Face's names, matrices as [out, in]."""
    random = np.random.default_rng(family.seed)
    config = family.config
    if config["model_type"] not in PARTS:
        return made_of_sources(
            config, seed=family.seed, out_norm_gain=family.out_norm_gain
        )
    width, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", width // config["num_attention_heads"])
    queries = config["num_attention_heads"] * head_dim
    kv_width = config["num_key_value_heads"] * head_dim
    parts = PARTS[config["model_type"]]
    output_bias = config.get("attention_bias", False)
    qkv_bias = output_bias or parts.qkv_bias
    tensors: dict[str, FloatArray] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> None:
        scale = GAIN / np.sqrt(columns)
        values = random.standard_normal((rows, columns)) * scale
        tensors[f"{name}.weight"] = values.astype(np.float32)
        if bias:
            values = random.standard_normal(rows) * 0.3
            tensors[f"{name}.bias"] = values.astype(np.float32)

    def norm(name: str, size: int) -> None:
        values = 1.0 + 0.2 * random.standard_normal(size)
        tensors[f"{name}.weight"] = values.astype(np.float32)

    linear("model.embed_tokens", VOCAB_SIZE, width, bias=False)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        norm(f"{at}.input_layernorm", width)
        for kind, rows in (("q", queries), ("k", kv_width), ("v", kv_width)):
            linear(f"{at}.self_attn.{kind}_proj", rows, width, bias=qkv_bias)
        linear(f"{at}.self_attn.o_proj", width, queries, bias=output_bias)
        for name in parts.head_norms:
            norm(f"{at}.self_attn.{name}", head_dim)
        norm(f"{at}.post_attention_layernorm", width)
        mlp_bias = config.get("mlp_bias", False)
        linear(f"{at}.mlp.gate_proj", inner, width, bias=mlp_bias)
        linear(f"{at}.mlp.up_proj", inner, width, bias=mlp_bias)
        linear(f"{at}.mlp.down_proj", width, inner, bias=mlp_bias)
    norm("model.norm", width)
    tensors["model.norm.weight"] *= LOGIT_GAIN
    if not config["tie_word_embeddings"]:
        linear("lm_head", VOCAB_SIZE, width, bias=False)
    return tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The tensors that a model type has whatever its `config.json` says."""

    qkv_bias: bool = False
    head_norms: tuple[str, ...] = ()


PARTS = {
    "llama": Parts(),
    "mistral": Parts(),
    "qwen2": Parts(qkv_bias=True),
    "qwen3": Parts(head_norms=("q_norm", "k_norm")),
}

GAIN = 2.0
"""Larger than usual, so that attention is sharp and every layer matters."""
LOGIT_GAIN = np.float32(4.0)
"""So that the best token leads clearly."""


def _family(name: str, architecture: str, seed: int, **options: Any) -> Family:
    config = {
        "architectures": [f"{architecture}ForCausalLM"],
        "model_type": architecture.lower(),
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": None,
        "dtype": "float32",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        **options,
    }
    return Family(name=name, config=config, seed=seed)


_FAMILIES = (
    _family("llama2", "Llama", 11, num_key_value_heads=4),  # H = 32
    _family(
        "llama3",
        "Llama",
        2,
        head_dim=64,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 50_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    _family("llama_bias", "Llama", 3, attention_bias=True, mlp_bias=True),
    _family(
        "mistral", "Mistral", 4, head_dim=128, num_key_value_heads=1, sliding_window=16
    ),
    _family(
        "qwen2", "Qwen2", 15, hidden_size=256, num_key_value_heads=1, rms_norm_eps=1e-6
    ),  # H = 64
    _family(
        "qwen2_window",
        "Qwen2",
        6,
        use_sliding_window=True,
        sliding_window=24,
        max_window_layers=1,
    ),
    _family(
        "qwen3",
        "Qwen3",
        7,
        head_dim=256,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    ),
)
_MORE = tuple(
    Family(
        name=one.name,
        config={**COMMON, **one.config},
        seed=one.seed,
        out_norm_gain=one.out_norm_gain,
        is_slow=one.is_slow,
    )
    for one in TINY_FAMILIES
)
