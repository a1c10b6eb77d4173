"""Reads what a GGUF file says of its model as a `config.json` would say it."""

from pathlib import Path
from typing import Any

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.architectures import (
    GGUF_ARCHITECTURES,
    GgufArchitecture,
)
from mell_jax.checkpoints.gguf.model import GgufModel
from mell_jax.checkpoints.gguf.rope import rope_section
from mell_jax.checkpoints.hf_config import CheckpointSpec, parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.model_files.gguf_file import GgufError, read_head
from mell_jax.model_files.gguf_tokenizer import bos_id, end_ids

ARCHITECTURE = "general.architecture"
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "tensor_data_layout": ("Meta AI original pth",),
    "use_parallel_residual": (False,),
}
"""Key -> values that change nothing."""


def architecture_of(model: GgufModel) -> GgufArchitecture:
    """Returns the architecture that a file names.

    Raises:
      CheckpointError: it names none that is known, or is no model.
    """
    fields = _fields(model)
    kind = fields.text("general.type", default="model")
    if kind != "model":
        fields.fail(
            "general.type", f"is {kind[:60]!r}, no model; an adapter must be merged"
        )
    name = fields.text(ARCHITECTURE)
    if name not in GGUF_ARCHITECTURES:
        fields.fail(
            ARCHITECTURE,
            f"must be one of {', '.join(GGUF_ARCHITECTURES)}; found {name[:60]!r}. "
            "Other architectures are read from safetensors alone",
        )
    return GGUF_ARCHITECTURES[name]


def read_gguf_spec(model: GgufModel) -> CheckpointSpec:
    """Returns the `CheckpointSpec` of a GGUF file.

    Raises:
      CheckpointError: naming the file, the key and what is supported.
    """
    architecture = architecture_of(model)
    own = _Metadata(model)
    try:
        values = _config_values(own, architecture)
        values["eos_token_id"] = list(end_ids(model.head)) or None
        values["bos_token_id"] = bos_id(model.head)
    except GgufError as error:
        raise CheckpointError(str(error)) from error
    own.check_known()
    fields = Fields(values, f"{model.path}: as config.json")
    return parse_spec(fields, generation=Fields({}, fields.where))


def read_gguf_ends(path: Path) -> tuple[int, ...]:
    """Returns the tokens that end a text, by a GGUF file.

    Raises:
      CheckpointError: the file is damaged.
    """
    try:
        return end_ids(read_head(path))
    except GgufError as error:
        raise CheckpointError(str(error)) from error


class _Metadata:
    """The keys of a file's architecture: "block_count" is "llama.block_count"."""

    def __init__(self, model: GgufModel) -> None:
        self.model = model
        self.fields = _fields(model)
        self._prefix = self.fields.text(ARCHITECTURE) + "."

    def key(self, name: str) -> str:
        return self._prefix + name

    def has(self, name: str) -> bool:
        return self.fields.has(self.key(name))

    def number(self, name: str, *, default: float | None = None) -> float:
        return self.fields.number(self.key(name), default=default)

    def integer(self, name: str, *, default: int | None = None) -> int:
        """A whole number; of a list, what all of its entries are."""
        key = self.key(name)
        if not isinstance(self.fields.values.get(key), list):
            return self.fields.integer(key, default=default)
        found = set(self.fields.integers(key))
        if len(found) != 1:
            self.fields.fail(key, "differs from layer to layer, which is not supported")
        return found.pop()

    def check_known(self) -> None:
        """Refuses what may change the arithmetic and that nobody asked for."""
        for key, value in self.fields.values.items():
            name = key.removeprefix(self._prefix)
            is_own = key.startswith(self._prefix) and key not in self.fields.asked
            if is_own and value not in _NEUTRAL.get(name, ()):
                self.fields.fail(
                    key,
                    f"is {str(value)[:60]}, which is not known here and may change "
                    "what the model computes; take the safetensors of the model",
                )


def _config_values(own: _Metadata, architecture: GgufArchitecture) -> dict[str, Any]:
    tensors, family = own.model.tensors, architecture.family
    heads = own.integer("attention.head_count")
    width = own.integer("embedding_length")
    if not (heads >= 1):
        own.fields.fail(own.key("attention.head_count"), f"must be positive: {heads}")
    head_dim = own.integer("attention.key_length", default=width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.integer(name, default=head_dim) != head_dim:
            own.fields.fail(
                own.key(name), f"must be the size of a head, {head_dim}, or absent"
            )
    if EMBEDDING not in tensors:
        raise CheckpointError(f"{own.model.path}: tensor {EMBEDDING!r} is missing")
    vocab_size = tensors[EMBEDDING].shape[0]
    if own.integer("vocab_size", default=vocab_size) != vocab_size:
        own.fields.fail(
            own.key("vocab_size"), f"must be {vocab_size}, the rows of {EMBEDDING}"
        )
    queries = architecture.stored_name("model.layers.0.self_attn.q_proj.weight")
    if queries in tensors and tensors[queries].shape[0] != heads * head_dim:
        own.fields.fail(
            own.key("attention.head_count"),
            f"({heads}) makes {heads * head_dim} rows of queries, but {queries} has "
            f"{tensors[queries].shape[0]}",
        )
    context = own.integer("context_length")
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": own.integer("feed_forward_length"),
        "num_hidden_layers": own.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own.integer("attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": own.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": own.number("rope.freq_base", default=10_000.0),
        "rope_scaling": rope_section(
            own.model, own.fields, prefix=own.key(""), context_tokens=context
        ),
        "tie_word_embeddings": HEAD not in tensors,
        **_biases(own, architecture),
    }


def _biases(own: _Metadata, architecture: GgufArchitecture) -> dict[str, bool]:
    """Biases that a `config.json` tells of and a GGUF file just has."""
    names = {
        key: architecture.stored_name(f"model.layers.0.{part}.bias")
        for key, part in architecture.bias_keys.items()
    }
    return {key: True for key, name in names.items() if name in own.model.tensors}


def _fields(model: GgufModel) -> Fields:
    return Fields(dict(model.head.metadata), f"{model.path}: metadata")
