"""Knows how other programs call a decoder's parameters, by the program's name.

hf        a dictionary of Hugging Face's tensors: "model.layers.0.mlp.up_proj.weight"
maxtext   trees of MaxText, Tunix and google-deepmind/gemma
tunix     (`checkpoints.trees`)
gemma
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mell_jax.checkpoints import CheckpointSpec
from mell_jax.checkpoints.families import FAMILIES
from mell_jax.checkpoints.families.family import Sources
from mell_jax.checkpoints.foreign_tree import TREE_ROOTS
from mell_jax.checkpoints.stored_weights import (
    EMBEDDING,
    HEAD,
    IGNORED_SUFFIXES,
    PREFIXES,
    SIGHT,
)
from mell_jax.checkpoints.trees import GEMMA, MAXTEXT, TUNIX, TreeLayout
from mell_jax.engine.weights.tree import Array, SourceTree

_TREES: Mapping[str, TreeLayout] = {"maxtext": MAXTEXT, "tunix": TUNIX, "gemma": GEMMA}
LAYOUTS = ("hf", *_TREES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """Every parameter's source is known, and by which names the arrays go there."""

    sources: Sources
    arrays: Mapping[str, Array]


def lay_out(tree: SourceTree, *, layout: str, spec: CheckpointSpec) -> LaidOut:
    """Returns where each parameter of a decoder is in a tree.

    Raises:
      ValueError: there is no such layout, or the tree is none of it.
    """
    if layout == "hf":
        return _of_hugging_face(tree, spec=spec)
    if layout not in _TREES:
        raise ValueError(
            f"mapping must be one of {', '.join(LAYOUTS)}, a dictionary or a function, "
            f"got {layout!r:.100}"
        )
    return _of_tree(tree, layout=_TREES[layout], spec=spec)


def guess_layout(tree: SourceTree) -> str | None:
    """Returns the layout that the names look like."""
    arrays = tree.arrays
    if any(f"{prefix}{_ending()}" in arrays for prefix in PREFIXES):
        return "hf"
    for name, layout in _TREES.items():
        if any(_is_like(layout, _below(arrays, root)) for root in TREE_ROOTS):
            return name
    return None


def _of_hugging_face(tree: SourceTree, *, spec: CheckpointSpec) -> LaidOut:
    """Tensors of a decoder inside a larger model are called as those of one alone.

    A head beside an embedding that is the head as well is taken for its copy.
    """
    if spec.architecture not in FAMILIES:
        raise ValueError(
            f"a {spec.architecture} is no model that Hugging Face has names for; give "
            "a mapping of names"
        )
    found = [p for p in PREFIXES if f"{p}{_ending()}" in tree.arrays]
    prefix = found[0] if found else PREFIXES[0]
    sources = FAMILIES[spec.architecture].weights(spec.config)
    used = {name for source in sources.values() for name in source.names()}
    arrays = {}
    for name, array in tree.arrays.items():
        if name.removeprefix("model.").startswith(SIGHT):
            continue
        if name.endswith(IGNORED_SUFFIXES):
            continue
        is_inside = name.startswith(prefix)
        plain = f"{PREFIXES[0]}{name.removeprefix(prefix)}" if is_inside else name
        outer = prefix.removesuffix("model.")
        if name == f"{outer}{HEAD}":
            plain = HEAD
        if plain == HEAD and HEAD not in used:
            continue
        arrays[plain] = array
    return LaidOut(sources=sources, arrays=arrays)


def _of_tree(tree: SourceTree, *, layout: TreeLayout, spec: CheckpointSpec) -> LaidOut:
    for root in TREE_ROOTS:
        arrays = _below(tree.arrays, root)
        if _is_like(layout, arrays):
            shapes = {name: tuple(array.shape) for name, array in arrays.items()}
            return LaidOut(
                sources=layout.sources(spec.config, shapes),
                arrays={
                    name: array
                    for name, array in arrays.items()
                    if not name.startswith(layout.ignored)
                },
            )
    raise ValueError(
        f"these arrays are none of {layout.program}'s: "
        f"{', '.join(list(tree.arrays)[:3])}"
    )


def _is_like(layout: TreeLayout, arrays: Mapping[str, Array]) -> bool:
    return layout.is_like({name: () for name in arrays})


def _below(arrays: Mapping[str, Array], root: str) -> dict[str, Array]:
    """Returns what is below a root; keys with slashes count as several."""
    start = f"{root}." if root else ""
    named = {name.replace("/", "."): array for name, array in arrays.items()}
    return {
        name.removeprefix(start): array
        for name, array in named.items()
        if name.startswith(start)
    }


def _ending() -> str:
    return EMBEDDING.removeprefix(PREFIXES[0])
