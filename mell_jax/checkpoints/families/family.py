"""A family says how to read its `config.json` and where each parameter comes from."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.sources import Reader, Source
from mell_jax.models.config import ModelConfig

ParameterPath = tuple[str | int, ...]
"""Where a parameter sits: ("layers", 0, "mlp", "up_proj", "kernel")."""
Sources = Mapping[ParameterPath, Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight joins a parameter and the source that it is made of."""

    path: ParameterPath
    source: Source
    size_bytes: int  # as stored


def left_over(weights: Iterable[Weight], reader: Reader) -> dict[str, int]:
    """Returns how many values of each tensor are used, where some of it are not.

    Several maps lie in one tensor there, and fewer or smaller ones were expected.
    """
    used: Counter[str] = Counter()
    for weight in weights:
        names = list(weight.source.names())
        for name in names:
            used[name] += prod(weight.source.shape(reader)) // len(names)
    return {
        name: values
        for name, values in used.items()
        if values < prod(reader.shape(name))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family is one architecture of transformers, read by functions."""

    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    parse: Callable[[Fields], ModelConfig]
    """Reads `config.json`; refuses what the family does not have."""
    weights: Callable[[ModelConfig], Sources]
    """Says what every parameter is made of."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """Writes what `parse` reads besides the fields that all have; keys with None are
    written as null."""
    also: tuple[str, ...] = ()
    """Architectures that hold such a decoder under `text_config`, or are the same."""
    model_types: tuple[str, ...] = ()
    """Words besides `model_type` for the same decoder."""
    never_null: tuple[str, ...] = ()
    """Keys that are left out where there is no value, since transformers refuses null.
    """
