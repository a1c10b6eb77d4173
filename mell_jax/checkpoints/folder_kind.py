"""Says what a folder or file is that cannot be served as it is, and the way out.

Only names are looked at: nothing is opened. It is asked where a load would fail with
"no such file" or "no weights", so a folder that can be read is never in its way.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import shown

ADAPTER_FILE = "adapter_config.json"
_BASE_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*", "orbax")
_MOST_NAMES = 10
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CONVERT = "load it with transformers and write it by save_pretrained(NEW_FOLDER)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderKind:
    """A kind of folder is told by names of files, all of which it must have.

    Attributes:
      what: the kind in words, such as "ONNX".
      marks: patterns of `Path.glob`; a file of each must be there.
      way_out: what its owner can do.
    """

    what: str
    marks: tuple[str, ...]
    way_out: str

    def found_in(self, directory: Path) -> list[str]:
        """Returns the first file of each mark; none where a mark has no file."""
        found = []
        for mark in self.marks:
            first = min(map(str, _matches(directory, mark)), default=None)
            if first is None:
                return []
            found.append(first)
        return found


_ORBAX_WAY_OUT = (
    "put the model's config.json beside it, or give the library its config: "
    "LLM(FOLDER, config=ModelConfig(...))"
)
KINDS: tuple[FolderKind, ...] = (  # the first that fits is told
    FolderKind(
        what="a folder of Hugging Face's cache",
        marks=("snapshots/*/*",),
        way_out="give one of the folders in its snapshots",
    ),
    FolderKind(
        what="an image pipeline of Diffusers",
        marks=("model_index.json",),
        way_out="language models alone are served",
    ),
    FolderKind(
        what="Meta's original layout, which is pickled",
        marks=("consolidated.*.pth", "params.json"),
        way_out="take the conversion to transformers (config.json and safetensors) of "
        "the same model, or convert by transformers' convert_llama_weights_to_hf.py",
    ),
    FolderKind(
        what="Mistral's own layout",
        marks=("consolidated*.safetensors", "params.json"),
        way_out="take config.json and the model*.safetensors of the same model, which "
        "its publisher has beside them, or convert by transformers' "
        "convert_mistral_weights_to_hf.py",
    ),
    FolderKind(
        what="an MLX model in NumPy's format",
        marks=("weights*.npz",),
        way_out="take the safetensors that it was made from",
    ),
    *(
        FolderKind(
            what="an Orbax checkpoint without config.json",
            marks=(mark,),
            way_out=_ORBAX_WAY_OUT,
        )
        for mark in ("_METADATA", "*/_METADATA", "*/*/_METADATA")
    ),
    *(
        FolderKind(
            what="ONNX",
            marks=(mark,),
            way_out="take the safetensors that it was made from",
        )
        for mark in ("*.onnx", "onnx/*.onnx")
    ),
    FolderKind(
        what="a checkpoint of Flax in msgpack",
        marks=("*.msgpack",),
        way_out=f"take safetensors, or {_CONVERT} (version 4 of it reads from_flax)",
    ),
    FolderKind(
        what="a checkpoint of TensorFlow",
        marks=("tf_model*.h5",),
        way_out=f"take safetensors, or {_CONVERT} (version 4 of it reads from_tf)",
    ),
    *(
        FolderKind(
            what="only pickled weights, which can run code and are never read",
            marks=(mark,),
            way_out="convert them to safetensors (in transformers: "
            "model.save_pretrained(directory, safe_serialization=True))",
        )
        for mark in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
    ),
)


def explain_folder(directory: Path) -> str:
    """Returns what `directory` is and the way out; empty where its files say nothing.

    >>> explain_folder(Path("models/llama-mlx"))
    "an MLX model in NumPy's format (weights.npz); take the safetensors that ..."
    """
    if (directory / ADAPTER_FILE).exists() and not _has(directory, _BASE_WEIGHTS):
        return (
            f"an adapter (LoRA) without its base model ({ADAPTER_FILE}); merge the two "
            "and serve what comes out (in PEFT: merge_and_unload(), then "
            "save_pretrained(NEW_FOLDER))"
        )
    for kind in KINDS:
        if found := kind.found_in(directory):
            return f"{kind.what} ({', '.join(map(shown, found))}); {kind.way_out}"
    return ""


def explain_path(path: Path) -> str:
    """Returns why `path`, which is no directory, is no model, and the way out."""
    if path.is_file():
        return "a file; a model is the directory that has it, config.json and the rest"
    words = (
        "no such directory or file; a model is a directory or a GGUF file on this "
        "machine (nothing is downloaded)"
    )
    if _HUB_ID.fullmatch(str(path)):
        words += (
            "; if it is a name of Hugging Face's hub, get the model first: hf download "
            f"{path} --local-dir DIRECTORY"
        )
    return words


def check_no_adapter(directory: Path) -> None:
    """Refuses a model beside an adapter: which of the two is meant, nobody can tell.

    Raises:
      CheckpointError: names the adapter and the way out.
    """
    if (directory / ADAPTER_FILE).exists() and _has(directory, _BASE_WEIGHTS):
        raise CheckpointError(
            f"{directory / ADAPTER_FILE}: an adapter (LoRA) lies beside a whole model, "
            "and adapters are not applied; merge the two (in PEFT: merge_and_unload(), "
            "then save_pretrained(NEW_FOLDER)), or move the adapter's files away to "
            "serve the model without it"
        )


def list_names(directory: Path) -> str:
    """Returns the first names in `directory`, for messages."""
    found = sorted(path.name for path in directory.iterdir())
    return ", ".join(map(shown, found[:_MOST_NAMES])) or "nothing"


def _has(directory: Path, marks: Iterable[str]) -> bool:
    return any(True for mark in marks for _ in _matches(directory, mark))


def _matches(directory: Path, mark: str) -> list[Path]:
    """Returns what matches, seen from `directory`; a folder counts for orbax only."""
    return [
        path.relative_to(directory)
        for path in directory.glob(mark)
        if path.is_file() or mark == "orbax"
    ]
