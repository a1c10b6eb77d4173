"""Finds the leaves of parameters in a checkpoint on disk, which must be of one model
with what is served.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mell_jax.checkpoints import CheckpointError, OpenModel, open_model
from mell_jax.checkpoints.folder_kind import explain_path
from mell_jax.checkpoints.gguf import gguf_in
from mell_jax.checkpoints.hf_config import CONFIG_FILE
from mell_jax.engine.weights.leaves import HostLeaf, Leaf
from mell_jax.engine.weights.plan import Parameter, WeightsPlan
from mell_jax.models.config import ModelConfig

_SHOWN = 3  # differences


def find_in_directory(plan: WeightsPlan, path: Path) -> dict[int, Leaf]:
    """Returns the leaf of each parameter by its number, in the order of the files.

    A parameter is read when it is put on devices, one at a time.

    Raises:
      CheckpointError: the checkpoint cannot be used, or is of another model.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: {explain_path(path)}")
    says_itself = gguf_in(path) is not None or (path / CONFIG_FILE).exists()
    types = {np.dtype(one.dtype) for one in plan.parameters if one.is_required}
    opened = open_model(
        path,
        dtype=max(types, key=lambda one: one.itemsize),
        config=None if says_itself else plan.spec.config,
    )
    _compare(path, opened.spec.config, served=plan.spec.config)
    _compare_ends(path, opened.spec.eos_ids, served=plan.spec.eos_ids)
    numbers = {one.path: number for number, one in enumerate(plan.parameters)}
    required = {one.path for one in plan.parameters if one.is_required}
    if required != set(opened.sizes):
        strange = ".".join(map(str, next(iter(required ^ set(opened.sizes)))))
        raise CheckpointError(
            f"{path}: it has the parameters of a Decoder, and the model that is served "
            f"has others, such as {strange}; give an nnx.State or a dictionary of them"
        )
    return {
        numbers[name]: _leaf(opened, plan.parameters[numbers[name]])
        for name in opened.sizes
    }


def _leaf(opened: OpenModel, parameter: Parameter) -> HostLeaf:
    def put(dtype: Any, to: jax.sharding.Sharding) -> jax.Array:
        ((_, array),) = opened.read([parameter.path], sharding_for=lambda *_: to)
        return array.astype(dtype)

    return HostLeaf(shape=parameter.shape, dtype=parameter.dtype, put=put)


def _compare(path: Path, found: ModelConfig, *, served: ModelConfig) -> None:
    """Refuses a checkpoint whose description is not that of the served model."""
    different = list(_differences(found, served, ""))
    if different:
        more = len(different) - _SHOWN
        raise CheckpointError(
            f"{path}: describes another model than is served: "
            f"{'; '.join(different[:_SHOWN])}{f'; and {more} more' * (more > 0)}. "
            "Weights can be updated by those of the same architecture and sizes; serve "
            "another model by an LLM of its own"
        )


def _compare_ends(
    path: Path, found: tuple[int, ...], *, served: tuple[int, ...]
) -> None:
    """Refuses a checkpoint whose answers would go on after their end.

    Ends that it leaves out do no harm, and where nothing ends a text, callers do.
    """
    strange = [token for token in found if token not in served]
    if served and strange:
        raise CheckpointError(
            f"{path}: says that a text ends with {_ids(found)}, and served are "
            f"{_ids(served)}: answers would go on after {_ids(strange)}. Correct "
            "eos_token_id in its config.json and generation_config.json, or serve it "
            "by an LLM of its own"
        )


def _ids(tokens: Iterable[int]) -> str:
    return " and ".join(map(str, tokens))


def _differences(found: Any, served: Any, name: str) -> Iterator[str]:
    """Yields the fields that differ, the innermost ones."""
    if found == served:
        return
    is_value = dataclasses.is_dataclass(found) and type(found) is type(served)
    if is_value and not isinstance(found, type):
        for field in dataclasses.fields(found):
            here = f"{name}.{field.name}" if name else field.name
            yield from _differences(
                getattr(found, field.name), getattr(served, field.name), here
            )
    elif isinstance(found, tuple) and isinstance(served, tuple):
        if len(found) != len(served):
            yield f"{name} has {len(found)} entries, served are {len(served)}"
            return
        for number, (one, other) in enumerate(zip(found, served, strict=True)):
            yield from _differences(one, other, f"{name}.{number}")
    else:
        yield f"{name} is {found!r}, served is {served!r}"
