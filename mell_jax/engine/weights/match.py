"""Finds the leaf of every parameter in a source, or says all that does not fit.

Nothing is moved and no value is looked at: names, shapes and types are compared. Values
that are no numbers (NaN) are found by the engine, when they reach a row's logits.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mell_jax.checkpoints.families.family import Weight, left_over
from mell_jax.checkpoints.sources import Source
from mell_jax.engine.weights.layouts import guess_layout, lay_out
from mell_jax.engine.weights.leaves import Leaf
from mell_jax.engine.weights.made import (
    HostArrays,
    MakeArray,
    leaf_by,
    leaf_from,
    leaf_of,
)
from mell_jax.engine.weights.plan import Parameter, WeightsPlan
from mell_jax.engine.weights.tree import SourceTree

Origin = str | Source | MakeArray
"""What a parameter comes from: a name, a source of names, or a function of arrays."""
Mapped = str | Mapping[str, Origin] | Callable[[str], Origin | None]
"""A layout's name, or what each served name comes from; names that it leaves out, or
for which the function returns None, are the same in the source."""
_SHOWN = 3  # of each kind of mistake


def find_leaves(
    plan: WeightsPlan, tree: SourceTree, *, mapping: Mapped | None = None
) -> dict[int, Leaf]:
    """Returns the leaf of each parameter, by its number; some are kept as they are.

    Kept are random keys and counts, what is no `nnx.Param` and not in the source, and
    all but LoRA's if the source has nothing but parameters of LoRA.

    Raises:
      ValueError: names, shapes or types do not fit; the message says which.
      TypeError: a mapping is none.
    """
    origins, tree = _origins(plan, tree, mapping)
    faults = _Faults(plan)
    leaves: dict[int, Leaf] = {}
    used: set[str] = set()
    for number, parameter in enumerate(plan.parameters):
        if parameter.is_state:
            continue
        origin = origins.get(parameter.name, parameter.name)
        names, leaf = _leaf(plan, parameter, origin, tree)
        missing = names - tree.arrays.keys()
        used |= names
        if missing:
            is_kept = tree.is_lora or not parameter.is_required
            if not is_kept or origin != parameter.name:
                faults.missing(parameter, missing)
            continue
        if leaf is None:
            faults.unfit(parameter, names, tree)
            continue
        faults.compare(parameter, leaf, names)
        leaves[number] = leaf
    states = {one.name for one in plan.parameters if one.is_state}
    faults.unknown = [n for n in tree.arrays if n not in used | states]
    faults.check(tree if mapping is None else None)
    if mapping == "hf":
        _check_left_over(plan, origins, tree)
    _check_joined(plan, leaves)
    return leaves


def _origins(
    plan: WeightsPlan, tree: SourceTree, mapping: Mapped | None
) -> tuple[Mapping[str, Origin], SourceTree]:
    names = frozenset(plan.by_name)
    if mapping is None:
        return {}, tree.below(names)
    if isinstance(mapping, str):
        laid = lay_out(tree, layout=mapping, spec=plan.spec)
        found = {".".join(map(str, path)): one for path, one in laid.sources.items()}
        return found, SourceTree(arrays=laid.arrays)
    if isinstance(mapping, Mapping):
        strange = [name for name in mapping if name not in names]
        if strange:
            raise ValueError(
                f"mapping names {_list(strange)}, but the served model has no such "
                f"parameters; they are called as in {_list(sorted(names))}"
            )
        return mapping, tree
    if not callable(mapping):
        raise TypeError(
            "mapping must be a layout's name, a dictionary or a function, got "
            f"{type(mapping).__name__}"
        )
    asked = {name: mapping(name) for name in plan.by_name}
    return {name: one for name, one in asked.items() if one is not None}, tree


def _leaf(
    plan: WeightsPlan, parameter: Parameter, origin: Origin, tree: SourceTree
) -> tuple[set[str], Leaf | None]:
    """Returns the names that a parameter needs, and its leaf if they are all there and
    of shapes that can be put together.
    """
    arrays = tree.arrays
    if isinstance(origin, str):
        there = origin in arrays
        return {origin}, leaf_of(arrays[origin]) if there else None
    if isinstance(origin, Source):
        names = set(origin.names())
        if not names <= arrays.keys():
            return names, None
        reader = HostArrays(arrays=arrays, dtype=parameter.dtype)
        if origin.shape(reader) != parameter.shape:
            return names, None
        leaf = leaf_from(origin, arrays, dtype=parameter.dtype, programs=plan.programs)
        return names, leaf
    if not callable(origin):
        raise TypeError(
            f"mapping says {type(origin).__name__} for {parameter.name}; it may be a "
            "name, a checkpoints.sources.Source or a function of the source's arrays"
        )
    try:
        made, asked = leaf_by(origin, arrays, programs=plan.programs)
    except KeyError as error:
        return {str(error.args[0])}, None
    except Exception as error:  # of a function that is not ours
        error.add_note(f"while mapping made {parameter.name} of the new weights")
        raise
    return set(asked), made


class _Faults:
    """Collects what does not fit."""

    def __init__(self, plan: WeightsPlan) -> None:
        self._plan = plan
        self._missing: list[str] = []
        self._shapes: list[str] = []
        self._types: list[str] = []
        self.unknown: list[str] = []

    def missing(self, parameter: Parameter, names: Iterable[str]) -> None:
        for name in sorted(names):
            of = "" if name == parameter.name else f" for {parameter.name}"
            self._missing.append(f"{name}{of} {list(parameter.shape)}")

    def unfit(
        self, parameter: Parameter, names: Iterable[str], tree: SourceTree
    ) -> None:
        given = [f"{n} {list(tree.arrays[n].shape)}" for n in sorted(names)]
        self._shapes.append(
            f"{parameter.name} {list(parameter.shape)} of {', '.join(given)}"
        )

    def compare(self, parameter: Parameter, leaf: Leaf, names: Iterable[str]) -> None:
        """Compares shape and type of a leaf with those of its parameter."""
        if leaf.shape != parameter.shape:
            self._shapes.append(
                f"{' and '.join(sorted(names))} {list(leaf.shape)}, served is "
                f"{list(parameter.shape)}"
            )
        if not _goes_as(leaf.dtype, parameter.dtype):
            self._types.append(
                f"{' and '.join(sorted(names))} {leaf.dtype}, served is "
                f"{np.dtype(parameter.dtype)}"
            )

    def check(self, guessed: SourceTree | None) -> None:
        """Raises what was found, if there is something.

        Args:
          guessed: says what the names look like; None where a mapping was given.
        """
        kinds = (
            ("missing", self._missing),
            ("not served", self.unknown),
            ("of another shape", self._shapes),
            ("of a type that weights do not have", self._types),
        )
        said = [
            f"{len(found)} {'is' if len(found) == 1 else 'are'} {kind} ({_list(found)})"
            for kind, found in kinds
            if found
        ]
        if not said:
            return
        layout = None if guessed is None else guess_layout(guessed)
        raise ValueError(
            "these weights are not those of the model that is served, and nothing was "
            f"changed: of its parameters {'; '.join(said)}. {self._way_out(layout)}"
        )

    def _way_out(self, layout: str | None) -> str:
        if layout is not None:
            return f'These names are known: try mapping="{layout}"'
        if any("lora" in name.lower() for name in self.unknown):
            return (
                "Parameters of LoRA are not applied to a model without them: a mapping "
                'may add each pair, lambda tree: tree["base"] + tree["a"] @ tree["b"]'
            )
        return (
            "They are called as in nnx.state(module), joined by dots; mapping says "
            "what others are called"
        )


def _check_left_over(
    plan: WeightsPlan, origins: Mapping[str, Origin], tree: SourceTree
) -> None:
    """Refuses tensors of several maps that hold more than these."""
    weights = [
        Weight(path=one.path, source=origin, size_bytes=0)
        for one in plan.parameters
        if isinstance(origin := origins.get(one.name), Source)
    ]
    reader = HostArrays(arrays=tree.arrays, dtype=np.float32)
    for name, values in left_over(weights, reader).items():
        raise ValueError(
            f"{name} {list(reader.shape(name))} is not that of the model that is "
            f"served, which has use for {values} of its values; nothing was changed"
        )


def _check_joined(plan: WeightsPlan, leaves: Mapping[int, Leaf]) -> None:
    """Refuses half of what is served as one array."""
    for place in plan.places:
        given = [number in leaves for number in place.recipe.inputs]
        if any(given) and not all(given):
            names = [plan.parameters[n].name for n in place.recipe.inputs]
            raise ValueError(
                f"{_list(names)} are served as one array: give all of them or none"
            )


def _goes_as(dtype: Any, served: Any) -> bool:
    """Floating types go as each other, others as themselves."""
    if jnp.issubdtype(served, jnp.floating):
        return bool(jnp.issubdtype(dtype, jnp.floating))
    return bool(dtype == served)


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])
