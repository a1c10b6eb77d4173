"""A tree layout tells how a decoder's parameters lie in the trees of another program.

    layers.0.attention.q_proj.kernel  [D, N * H]
      of MaxText   Reshape(Pick(Take("decoder.layers.self_attention.query.kernel")))

Names are those of leaves, joined by dots, below the root that was found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mell_jax.checkpoints.families.family import ParameterPath, Sources
from mell_jax.checkpoints.sources import Shape, Source
from mell_jax.models.config import AttentionConfig, LayerConfig, ModelConfig

Shapes = Mapping[str, Shape]
"""The leaves of a tree and their shapes."""
Found = dict[ParameterPath, Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLayout:
    """A layout is one program's way to keep a decoder."""

    program: str  # "MaxText"
    is_like: Callable[[Shapes], bool]
    """Tells whether leaves of these names are such a tree."""
    sources: Callable[[ModelConfig, Shapes], Sources]
    """Says what every parameter is made of, by shapes where the program has a choice.

    What is missing or misshapen is found by whoever reads it.
    """
    ignored: tuple[str, ...] = ()
    """Begins of names that are no part of a decoder, such as what sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A projection makes queries, keys or values of one layer."""

    kind: str  # "q", "k" or "v"
    heads: int
    has_bias: bool


def projections(attention: AttentionConfig) -> Iterator[Projection]:
    """Yields those of queries, keys and values."""
    kv = attention.num_kv_heads
    yield Projection(kind="q", heads=attention.num_heads, has_bias=attention.query_bias)
    yield Projection(kind="k", heads=kv, has_bias=attention.key_bias)
    yield Projection(kind="v", heads=kv, has_bias=attention.value_bias)


def norm_names(layer: LayerConfig) -> list[str]:
    """Returns the names of the norms that a layer of ours has."""
    is_before, is_after = layer.norm_places != "after", layer.norm_places != "before"
    there = {
        "input_norm": is_before,
        "attention_out_norm": is_after,
        "mlp_norm": is_before and not layer.is_parallel,
        "mlp_out_norm": is_after,
    }
    return [name for name, is_there in there.items() if is_there]


def first_of(names: Sequence[str], *, shapes: Shapes) -> str:
    """Returns the first name that is there, or just the first."""
    return next((name for name in names if name in shapes), names[0])
