"""Finds where each parameter of a `Decoder` lies in a Hugging Face directory.

`find_weights` matches names and shapes of the whole model before a byte of it is read.
Hugging Face keeps matrices as [out, in], Flax as [in, out].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mell_jax.checkpoints.abstract import AbstractDecoder, ParameterPath
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.folder_kind import explain_folder, list_names
from mell_jax.checkpoints.json_file import Fields, read_object, shown
from mell_jax.checkpoints.quantization_marks import find_quantization
from mell_jax.checkpoints.safetensors_file import (
    WEIGHT_DTYPES,
    StoredTensor,
    read_header,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20

TOP_NAMES: dict[ParameterPath, str] = {
    ("embed", "embedding"): "model.embed_tokens.weight",
    ("norm", "scale"): "model.norm.weight",
    ("lm_head", "kernel"): "lm_head.weight",
}
LAYER_NAMES: dict[str, str] = {
    "input_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention": "self_attn",
    "mlp": "mlp",
}
LEAF_NAMES: dict[str, str] = {"kernel": "weight", "scale": "weight", "bias": "bias"}
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Constants that old files carry and that we compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight joins a parameter and the stored tensor that it comes from."""

    path: ParameterPath
    tensor: StoredTensor


def hf_name(path: ParameterPath) -> str:
    """Returns Hugging Face's name of the parameter at `path`, the same in all our
    families.

    >>> hf_name(("layers", 3, "attention", "q_proj", "kernel"))
    'model.layers.3.self_attn.q_proj.weight'
    """
    if path in TOP_NAMES:
        return TOP_NAMES[path]
    _, layer, part, *inner, leaf = path
    names = [LAYER_NAMES[str(part)], *map(str, inner), LEAF_NAMES[str(leaf)]]
    return ".".join(["model.layers", str(layer), *names])


def is_transposed(path: ParameterPath) -> bool:
    """Tells whether Hugging Face keeps the parameter at `path` the other way around."""
    return path[-1] == "kernel"


def find_weights(directory: Path, model: AbstractDecoder) -> list[Weight]:
    """Returns the tensor of every parameter of `model`, in the order in which they are
    stored.

    Raises:
      CheckpointError: when a file or tensor is missing, misshapen or unknown.
    """
    stored = stored_tensors(directory)
    if (found := find_quantization(stored)) is not None:
        kind, name = found
        raise CheckpointError(
            f"{stored[name]}: these weights are quantised ({kind}), which is not "
            "supported; use the float32, float16 or bfloat16 weights"
        )
    weights = []
    for path, _ in model.items():
        weights.append(_find(directory, stored, path, model.shape(path)))
    used = {weight.tensor.name for weight in weights} | {"lm_head.weight"}
    extra = [
        tensor
        for name, tensor in stored.items()
        if name not in used and not name.endswith(IGNORED_SUFFIXES)
    ]
    if extra:
        names = ", ".join(shown(tensor.name) for tensor in extra[:3])
        raise CheckpointError(
            f"{extra[0].path}: {len(extra)} tensors that this model has no place for: "
            f"{names}; does config.json belong to these weights?"
        )
    return sorted(weights, key=lambda w: (w.tensor.path, w.tensor.start_byte))


def has_safetensors(directory: Path) -> bool:
    """Tells whether `directory` holds weights that `find_weights` would look into."""
    return any((directory / name).exists() for name in (INDEX_FILE, SINGLE_FILE))


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Returns all tensors of a directory with one safetensors file or an index of
    several.
    """
    index = directory / INDEX_FILE
    if not index.exists():
        if not (directory / SINGLE_FILE).exists():
            raise CheckpointError(_no_weights(directory))
        return read_header(directory / SINGLE_FILE)
    fields = Fields(read_object(index, max_bytes=MAX_INDEX_BYTES), str(index))
    weight_map = fields.section("weight_map")
    shards = {name: weight_map.text(name) for name in weight_map.values}
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(shards.values())):
        for name, tensor in read_header(_shard_path(directory, shard)).items():
            if name in tensors:
                raise CheckpointError(f"{tensor} is also in {tensors[name].path}")
            tensors[name] = tensor
    for name, shard in shards.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise CheckpointError(
                f"{index}: tensor {name[:80]!r} is not in {shard!r} as it says; "
                "download the missing or changed file again"
            )
    return tensors


def _shard_path(directory: Path, shard: str) -> Path:
    is_plain = shard.isprintable() and not set(shard) & set("/\\:")
    if not is_plain or shard.startswith(".") or not shard.endswith(".safetensors"):
        raise CheckpointError(
            f"{directory / INDEX_FILE}: {shard[:80]!r} is not the plain name of a "
            ".safetensors file"
        )
    path = directory / shard
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file, but {INDEX_FILE} names it; download it again"
        )
    return path


def _no_weights(directory: Path) -> str:
    kind = explain_folder(directory)
    return f"{directory}: " + (
        kind
        or f"no weights: expected {SINGLE_FILE}, {INDEX_FILE} or a folder orbax; found "
        f"{list_names(directory)}"
    )


def _find(
    directory: Path,
    stored: Mapping[str, StoredTensor],
    path: ParameterPath,
    shape: tuple[int, ...],
) -> Weight:
    name = hf_name(path)
    expected = shape[::-1] if is_transposed(path) else shape
    if name not in stored:
        raise CheckpointError(
            f"{directory}: tensor {name!r} of shape {list(expected)} is missing; does "
            "config.json belong to these weights?"
        )
    tensor = stored[name]
    if tensor.shape != expected:
        raise CheckpointError(
            f"{tensor} has the shape {list(tensor.shape)}, but config.json makes it "
            f"{list(expected)}; do they belong together?"
        )
    if tensor.dtype_name not in WEIGHT_DTYPES:
        raise CheckpointError(
            f"{tensor} has the dtype {tensor.dtype_name}; weights must be one of "
            f"{', '.join(WEIGHT_DTYPES)}"
        )
    return Weight(path=path, tensor=tensor)
