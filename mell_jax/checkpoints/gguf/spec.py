"""Reads what a GGUF file says of its model as a `config.json` would say it."""

from pathlib import Path
from typing import Any

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.architectures import (
    GGUF_ARCHITECTURES,
    GgufArchitecture,
)
from mell_jax.checkpoints.gguf.metadata import ARCHITECTURE, Metadata, all_fields
from mell_jax.checkpoints.gguf.model import GgufModel
from mell_jax.checkpoints.gguf.rope import rope_section
from mell_jax.checkpoints.hf_config import CheckpointSpec, parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.model_files.gguf_file import GgufError, read_head
from mell_jax.model_files.gguf_tokenizer import bos_id, end_ids

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def architecture_of(model: GgufModel) -> GgufArchitecture:
    """Returns the architecture that a file names.

    Raises:
      CheckpointError: it names none that is known, or is no model.
    """
    fields = all_fields(model)
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
    own = Metadata(model)
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


def _config_values(own: Metadata, architecture: GgufArchitecture) -> dict[str, Any]:
    family, heads, head_dim = architecture.family, own.heads, own.head_dim
    _check_head(own, architecture)
    context = own.integer("context_length")
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": _vocab_size(own),
        "hidden_size": own.integer("embedding_length"),
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
        "tie_word_embeddings": HEAD not in own.model.tensors,
        **_biases(own, architecture),
        **architecture.own_keys(own),
    }


def _check_head(own: Metadata, architecture: GgufArchitecture) -> None:
    """Refuses sizes of a head, or counts, that disagree."""
    heads, head_dim = own.heads, own.head_dim
    sizes = ["attention.value_length"]
    if not architecture.has_partial_rope:
        sizes.append("rope.dimension_count")
    for name in sizes:
        if own.integer(name, default=head_dim) != head_dim:
            own.fields.fail(
                own.key(name), f"must be the size of a head, {head_dim}, or absent"
            )
    tensors = own.model.tensors
    queries = architecture.stored_name("model.layers.0.self_attn.q_proj.weight")
    if queries in tensors and tensors[queries].shape[0] != heads * head_dim:
        own.fields.fail(
            own.key("attention.head_count"),
            f"({heads}) makes {heads * head_dim} rows of queries, but {queries} has "
            f"{tensors[queries].shape[0]}",
        )


def _vocab_size(own: Metadata) -> int:
    tensors = own.model.tensors
    if EMBEDDING not in tensors:
        raise CheckpointError(f"{own.model.path}: tensor {EMBEDDING!r} is missing")
    size = tensors[EMBEDDING].shape[0]
    if own.integer("vocab_size", default=size) != size:
        own.fields.fail(
            own.key("vocab_size"), f"must be {size}, the rows of {EMBEDDING}"
        )
    return size


def _biases(own: Metadata, architecture: GgufArchitecture) -> dict[str, bool]:
    """Biases that a `config.json` tells of and a GGUF file just has."""
    names = {
        key: architecture.stored_name(f"model.layers.0.{part}.bias")
        for key, part in architecture.bias_keys.items()
    }
    return {key: True for key, name in names.items() if name in own.model.tensors}
