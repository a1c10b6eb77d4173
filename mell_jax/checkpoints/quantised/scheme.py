"""A scheme says which weights of a checkpoint are quantised, and makes them dense.

    parts = scheme.parts("model.layers.0.mlp.up_proj.weight", tensors)
    if parts:                       # else it is stored as it is
        values = scheme.dequantise(name, names=parts, read=..., dtype=...)

It knows names and rules, and reads nothing by itself.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import shown
from mell_jax.checkpoints.quantised.layout import Layout, Shape
from mell_jax.checkpoints.quantised.modules import Modules


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Some modules are stored in one layout."""

    layout: Layout
    modules: Modules | None = None  # None: all


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A checkpoint's quantised weights are described by this, as its files say."""

    method: str  # as files call it: "gptq"
    where: str  # the file, and the key in it
    rules: tuple[Rule, ...]  # the first that has a module is the one for it
    skipped: Modules = field(default_factory=Modules)  # stored as they are

    def parts(self, name: str, names: Collection[str]) -> tuple[str, ...]:
        """Returns the stored tensors that make up the dense weight `name`, out of all
        that are there, `names`; () where it is stored as it is.

        Raises:
          CheckpointError: some of them are missing, or the module is said to be stored
            as it is and has them.
        """
        return tuple(self._find(name, names)[1].values())

    def dense_shape(self, name: str, shapes: Mapping[str, Shape]) -> Shape:
        """Returns the shape of the dense weight `name`, by the shapes of its parts.

        A matrix is [out, in], as in the checkpoint that this one was made of.

        Raises:
          CheckpointError: the parts have not as many dimensions as they should.
        """
        layout, parts = self._find(name, shapes)
        assert layout is not None, f"{name} is not quantised"
        try:
            return layout.dense_shape(
                {end: shapes[part] for end, part in parts.items()}
            )
        except ValueError as error:
            raise self._error(name, error) from error

    def dequantise(
        self,
        name: str,
        *,
        names: Collection[str],
        read: Callable[[str], npt.NDArray[Any]],
        dtype: npt.DTypeLike,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        """Returns the dense weight `name` as `dtype`, in the shape of `dense_shape`.

        Its parts are in memory besides the result, and a few megabytes.

        Args:
          name: of the dense weight.
          names: of its parts, or of all that are stored.
          read: returns a stored tensor by its name, in the type in which it is stored.
          dtype: of the result.
          rows: entries of the first axis to return; None for all.

        Raises:
          CheckpointError: types, shapes or values of the parts are not as they should
            be, or a value is too large for `dtype`.
        """
        layout, parts = self._find(name, names)
        assert layout is not None, f"{name} is not quantised"
        arrays = {end: read(part) for end, part in parts.items()}
        try:
            return layout.dequantise(arrays, dtype=dtype, rows=rows)
        except ValueError as error:
            raise self._error(name, error) from error

    def _find(
        self, name: str, names: Collection[str]
    ) -> tuple[Layout | None, dict[str, str]]:
        module = name.removesuffix(".weight")
        rules = (r for r in self.rules if r.modules is None or r.modules.has(module))
        rule = next(rules, None)
        if rule is None:
            return None, {}
        try:
            parts = rule.layout.part_names.find(name, names)
            if parts and self.skipped.has(module):
                raise ValueError(
                    f"is said to be stored as it is, but there is a "
                    f"{next(iter(parts))}; is the file of another version?"
                )
        except ValueError as error:
            raise self._error(name, error) from error
        return rule.layout, parts

    def _error(self, name: str, error: ValueError) -> CheckpointError:
        return CheckpointError(
            f"{self.where} ({self.method}): the weight {shown(name)} {error}"
        )
