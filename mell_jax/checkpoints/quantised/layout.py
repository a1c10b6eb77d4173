"""A layout says how one format stores a dense weight: in which tensors, and how."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNames:
    """The parts of a dense weight are called like it, with an ending of their own.

    "a.q_proj.weight" has the parts "a.q_proj.qweight", "a.q_proj.scales" and so on;
    here they are called by what differs: "qweight", "scales".
    """

    markers: tuple[str, ...]
    """One of them says that the weight is quantised."""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    replaced: str = "weight"
    """The ending of dense names that the parts' endings stand in place of."""

    def find(self, name: str, names: Collection[str]) -> dict[str, str]:
        """Returns the stored name of every part of the dense weight `name` by its
        ending; nothing where that weight is not quantised.

        Raises:
          ValueError: some parts are there and others missing.
        """
        stem = name.removesuffix(self.replaced)
        if self.replaced and (stem == name or stem[-1:] not in (".", "")):
            return {}
        found = {mark: stem + mark for mark in self.markers if stem + mark in names}
        if not found:
            return {}
        if len(found) > 1:
            raise ValueError(f"has both {' and '.join(found)}; it needs one of them")
        missing = [part for part in self.required if stem + part not in names]
        if missing:
            raise ValueError(f"has {next(iter(found))}, but no {', '.join(missing)}")
        others = (*self.required, *self.optional)
        return found | {part: stem + part for part in others if stem + part in names}


class Layout(Protocol):
    """A format of quantised weights, with its options.

    What is wrong with a weight is a `ValueError` that says it in a clause; the scheme
    adds which weight of which file.
    """

    @property
    def part_names(self) -> PartNames:
        """The names of the tensors that make up a weight."""
        ...

    def dense_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Returns the shape of the dense weight, by the shapes of its parts."""
        ...

    def dequantise(
        self,
        parts: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        """Returns the dense weight as `dtype`, or some entries of its first axis."""
        ...


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Returns `shape` if it is a matrix's.

    Raises:
      ValueError: it has other than two dimensions.
    """
    if len(shape) != 2:
        raise ValueError(f"expected two dimensions, found the shape {list(shape)}")
    return shape[0], shape[1]
