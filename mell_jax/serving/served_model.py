"""A model as clients are told about it."""

from dataclasses import dataclass
from pathlib import Path

from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The name and the files of one model of a server."""

    name: str
    path: str
    tokenizer_dir: Path | None = None
    tokenizer: Tokenizer | None = None  # None: token ids only
