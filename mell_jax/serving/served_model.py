"""Clients are told this much about a model."""

from dataclasses import dataclass
from pathlib import Path

from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A served model has a name and files.

    Attributes:
      fingerprint: of the server's version and the weights; empty where none is known.
    """

    name: str
    path: str
    tokenizer_dir: Path | None = None
    tokenizer: Tokenizer | None = None  # None: token ids only
    fingerprint: str = ""
