"""Reads Hugging Face's `config.json` and `generation_config.json` as frozen values.

Each architecture is one entry of `FAMILIES`: what it adds to the fields that all of
them share. Whatever would change the arithmetic and is not supported is refused.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mell_jax.checkpoints.architecture import explain_architectures
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.folder_kind import check_no_adapter, explain_folder
from mell_jax.checkpoints.generation import (
    GENERATION_FILE,
    NO_SAMPLING,
    SamplingDefaults,
)
from mell_jax.checkpoints.json_file import MAX_CONFIG_BYTES, Fields, read_object, shown
from mell_jax.checkpoints.quantization_marks import QUANTIZATION_KEYS, find_method
from mell_jax.models.config import Llama3Rope, ModelConfig

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """A spec is what a model directory says about its model, besides the weights."""

    config: ModelConfig
    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    dtype_name: str | None = None
    """The precision of the weights as the directory names it, such as "bfloat16"."""
    outside_ids: tuple[int, ...] = ()
    """Special tokens that the files name and that the vocabulary does not have."""
    sampling: SamplingDefaults = NO_SAMPLING
    """For requests that leave parameters out; `read_spec` leaves it to others."""

    def __post_init__(self) -> None:
        bos = () if self.bos_id is None else (self.bos_id,)
        for token in (*self.eos_ids, *bos):
            if not (0 <= token < self.config.vocab_size):
                raise ValueError(
                    f"special token {token} is outside the vocabulary of "
                    f"{self.config.vocab_size}"
                )

    @property
    def context_tokens(self) -> int:
        """Returns the longest context that the model can be served with, in tokens."""
        return self.config.max_position_embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family differs in this from the fields that all architectures share."""

    model_type: str
    options: Callable[[Fields], dict[str, Any]]
    """Reads further arguments of `ModelConfig`."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """Writes what `options` reads; an option that has no key here is not written."""
    head_dim: int | None = None  # where the file names none: None for D / N


def read_spec(directory: Path) -> CheckpointSpec:
    """Returns the `CheckpointSpec` of a model directory.

    Raises:
      CheckpointError: naming the file, the key and what is supported.
    """
    path = directory / CONFIG_FILE
    check_no_adapter(directory)
    if not path.is_file() and (kind := explain_folder(directory)):
        raise CheckpointError(f"{directory}: {kind}")
    fields = Fields(read_object(path, max_bytes=MAX_CONFIG_BYTES), str(path))
    generation_path = directory / GENERATION_FILE
    generation = Fields({}, str(generation_path))
    if generation_path.exists():
        values = read_object(generation_path, max_bytes=MAX_CONFIG_BYTES)
        generation = Fields(values, str(generation_path))
    return parse_spec(fields, generation=generation)


def read_eos_ids(directory: Path) -> tuple[int, ...]:
    """Returns the tokens that end a text, by the two files.

    Files that are not there say nothing.

    Raises:
      CheckpointError: a file is not as it should be.
    """
    found = []
    for name in (GENERATION_FILE, CONFIG_FILE):
        path = directory / name
        if path.exists():
            values = read_object(path, max_bytes=MAX_CONFIG_BYTES)
            found.append(Fields(values, str(path)))
    return _union(*found)


def _union(*files: Fields) -> tuple[int, ...]:
    """The tokens that any of the files takes for the end of a text."""
    found = dict.fromkeys(
        token
        for fields in files
        if fields.has("eos_token_id")
        for token in fields.integers("eos_token_id")
    )
    return tuple(found)


def split_ids(
    ids: Iterable[int], *, vocab_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the tokens that a vocabulary has, and those that it does not have.

    Files name such ones, -1 for none or the id of a larger vocabulary. They never
    come out of a model, so they end nothing and do no harm.

    >>> split_ids((2, -1, 999, 2), vocab_size=100)
    ((2,), (-1, 999))
    """
    each = tuple(dict.fromkeys(ids))
    known = tuple(token for token in each if 0 <= token < vocab_size)
    return known, tuple(token for token in each if token not in known)


def parse_spec(fields: Fields, *, generation: Fields) -> CheckpointSpec:
    """Returns the `CheckpointSpec` that a `config.json` and a `generation_config.json`
    describe.
    """
    architectures = fields.texts("architectures", default=())
    if len(architectures) != 1 or architectures[0] not in FAMILIES:
        known = {name: family.model_type for name, family in FAMILIES.items()}
        model_type = fields.text("model_type", default="")
        fields.fail(
            "architectures",
            explain_architectures(architectures, model_type=model_type, known=known),
        )
    for key in QUANTIZATION_KEYS:
        if fields.has(key):
            method = find_method(fields.values[key])
            fields.fail(
                key,
                f"{f'({shown(method)}) ' if method else ''}is not supported; use the "
                "float32, float16 or bfloat16 weights",
            )
    family = FAMILIES[architectures[0]]
    start = generation if generation.has("bos_token_id") else fields
    dtype_key = "dtype" if fields.has("dtype") else "torch_dtype"
    eos_ids = _union(generation, fields)
    bos_id = start.integer("bos_token_id") if start.has("bos_token_id") else None
    try:
        config = _config(fields, family)
        named = eos_ids if bos_id is None else (*eos_ids, bos_id)
        known_ids, outside_ids = split_ids(named, vocab_size=config.vocab_size)
        return CheckpointSpec(
            config=config,
            architecture=architectures[0],
            model_type=family.model_type,
            eos_ids=tuple(token for token in eos_ids if token in known_ids),
            bos_id=bos_id if bos_id in known_ids else None,
            outside_ids=outside_ids,
            dtype_name=fields.text(dtype_key) if fields.has(dtype_key) else None,
        )
    except CheckpointError:
        raise
    except ValueError as error:  # a range that ModelConfig checks
        raise CheckpointError(f"{fields.where}: {error}") from error


def _config(fields: Fields, family: Family) -> ModelConfig:
    activation = fields.text("hidden_act", default="silu")
    if activation != "silu":
        fields.fail("hidden_act", f"must be silu, found {activation[:60]!r}")
    num_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    theta, scaling = _rope(fields)
    return ModelConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=num_heads),
        head_dim=_head_dim(fields, family, hidden_size, num_heads),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
        **family.options(fields),
    )


def _head_dim(fields: Fields, family: Family, hidden_size: int, num_heads: int) -> int:
    if fields.has("head_dim"):
        return fields.integer("head_dim")
    if family.head_dim is not None:
        return family.head_dim
    if num_heads < 1 or hidden_size % num_heads:
        fields.fail(
            "hidden_size",
            f"({hidden_size}) must be a multiple of num_attention_heads "
            f"({num_heads}) where head_dim is not given",
        )
    return hidden_size // num_heads


def _rope(fields: Fields) -> tuple[float, Llama3Rope | None]:
    """Base and stretching, in today's spelling (`rope_parameters`) or the older one."""
    theta = fields.number("rope_theta", default=10_000.0)
    rope = fields.section("rope_scaling")
    if fields.has("rope_parameters"):
        rope = fields.section("rope_parameters")
        theta = rope.number("rope_theta", default=theta)
    for holder in (fields, rope):
        share = holder.number("partial_rotary_factor", default=1.0)
        if share != 1.0:
            holder.fail("partial_rotary_factor", f"must be 1, found {share}")
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise CheckpointError(f"{rope.where}: one setting for all layers is supported")
    rope_type = rope.text("rope_type", default=rope.text("type", default="default"))
    if rope_type == "default":
        return theta, None
    if rope_type != "llama3":
        rope.fail("rope_type", f"must be default or llama3, found {rope_type[:60]!r}")
    return theta, Llama3Rope(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )


def _llama(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", default=False)
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", default=False),
    }


def _write_llama(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def _mistral(fields: Fields) -> dict[str, Any]:
    if not fields.has("sliding_window"):
        return {}
    layers = _num_layers(fields)
    return {"windows": (fields.integer("sliding_window"),) * layers}


def _write_mistral(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": _smallest_window(config)}


def _qwen2(fields: Fields) -> dict[str, Any]:
    return {"qkv_bias": True, "windows": _qwen_windows(fields)}


def _write_qwen2(config: ModelConfig) -> dict[str, Any]:
    window = _smallest_window(config)
    names = [
        "sliding_attention" if size else "full_attention" for size in config.windows
    ]
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": config.num_layers,
        "layer_types": names or None,
    }


def _qwen3(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", default=False)
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "windows": _qwen_windows(fields),
    }


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.qkv_bias, **_write_qwen2(config)}


def _smallest_window(config: ModelConfig) -> int | None:
    """The one window of the layers that have one; others do not survive the writing."""
    return min((size for size in config.windows if size is not None), default=None)


def _qwen_windows(fields: Fields) -> tuple[int | None, ...]:
    layers = _num_layers(fields)
    is_windowed = fields.flag("use_sliding_window", default=False)
    if is_windowed and fields.has("sliding_window"):
        window = fields.integer("sliding_window")
    else:
        window = None
    if not fields.has("layer_types"):
        if window is None:
            return ()
        first = fields.integer("max_window_layers", default=28)
        return tuple(window if layer >= first else None for layer in range(layers))
    types = fields.texts("layer_types")
    allowed = {"full_attention"} | ({"sliding_attention"} if window else set())
    if len(types) != layers or not allowed.issuperset(types):
        fields.fail(
            "layer_types",
            f"must name each of the {layers} layers as one of {sorted(allowed)} "
            f"(use_sliding_window: {is_windowed}); found {list(types)[:8]}",
        )
    windows = tuple(window if kind == "sliding_attention" else None for kind in types)
    return () if window is None else windows


def _num_layers(fields: Fields) -> int:
    layers = fields.integer("num_hidden_layers")
    if not (1 <= layers <= 1_000):
        fields.fail("num_hidden_layers", f"must be from 1 to 1000, got {layers}")
    return layers


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(model_type="llama", options=_llama, write=_write_llama),
    "MistralForCausalLM": Family(
        model_type="mistral", options=_mistral, write=_write_mistral
    ),
    "Qwen2ForCausalLM": Family(model_type="qwen2", options=_qwen2, write=_write_qwen2),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3", options=_qwen3, write=_write_qwen3, head_dim=128
    ),
}
