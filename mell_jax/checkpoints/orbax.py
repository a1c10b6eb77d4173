"""Reads and writes parameters of a `Decoder` in an Orbax checkpoint folder.

What is saved is `nnx.to_pure_dict(nnx.state(decoder))`. What is read may as well be an
`nnx.State`, sit under "params" or "model" beside other things, such as the state of an
optimizer, which stay on disk, or have all layers of a parameter in one array. Restoring
goes in groups no larger than the largest array, so that host memory stays small.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import orbax.checkpoint as ocp

from mell_jax.checkpoints.abstract import AbstractDecoder
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import ParameterPath
from mell_jax.checkpoints.json_file import shown
from mell_jax.checkpoints.safetensors_file import WEIGHT_DTYPES

CHUNK_BYTES = 16 << 20
"""Pieces that arrays are stored in: a reader decompresses one at a time."""

_MMAP_THRESHOLD = -3  # a parameter of mallopt

Key = tuple[str, ...]
ROOTS: tuple[Key, ...] = (
    (),
    *(("params",), ("model",), ("model_params",), ("state",)),
    *(("params", "params"), ("model", "params"), ("model_params", "params")),
    *(("state", "params"), ("state", "model"), ("state", "params", "params")),
)
"""Where in the saved tree the parameters may sit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedParameter:
    """It joins a parameter and the leaf of the saved tree that it comes from."""

    path: ParameterPath
    key: Key
    shape: tuple[int, ...]
    size_bytes: int  # as stored
    layer: int | None = None  # its index where the leaf is of all layers [L, ...]


def find_saved(
    folder: Path, model: AbstractDecoder, *, leaves: Mapping[Key, Any]
) -> list[SavedParameter]:
    """Returns the saved leaf of every parameter of `model`, of those in `folder`.

    Raises:
      CheckpointError: when a parameter is missing, misshapen or unknown.
    """
    root = _find_root(folder, leaves)
    saved = [
        _find(folder, leaves, root, path, model=model) for path, _ in model.items()
    ]
    used = {parameter.key for parameter in saved}
    extra = [key for key in leaves if key[: len(root)] == root and key not in used]
    if extra:
        raise CheckpointError(
            f"{folder}: {len(extra)} arrays that this model has no place for, such as "
            f"{shown('.'.join(extra[0]))}; does config.json belong to them?"
        )
    return saved


def restore(
    folder: Path,
    saved: list[SavedParameter],
    *,
    model: AbstractDecoder,
    sharding_of: Callable[[ParameterPath], jax.sharding.Sharding],
) -> Iterator[tuple[SavedParameter, jax.Array]]:
    """Reads `saved` group by group, each parameter onto its sharding and cast.

    An array of all layers is read once, to the host, and cut there.
    """
    stacked: dict[Key, list[SavedParameter]] = {}
    for parameter in saved:
        if parameter.layer is not None:
            stacked.setdefault(parameter.key, []).append(parameter)
    whole = [parameter for parameter in saved if parameter.layer is None]
    for group in _groups(whole):
        arguments: dict[str, Any] = {}
        for parameter in group:
            argument = ocp.ArrayRestoreArgs(  # as stored: Orbax casts in more memory
                sharding=sharding_of(parameter.path),
                global_shape=parameter.shape,
            )
            _insert(arguments, parameter.key, argument)
        tree = _restore_tree(folder, arguments)
        for parameter in group:
            array = _take(tree, parameter.key)
            array = array.astype(model.parameters[parameter.path].dtype)
            yield parameter, array.block_until_ready()
        del tree, array
    for key, parameters in stacked.items():
        layers = read_array(folder, key)
        for parameter in parameters:
            values = layers[parameter.layer].astype(
                model.parameters[parameter.path].dtype, copy=False
            )
            array = jax.device_put(values, sharding_of(parameter.path))
            yield parameter, array.block_until_ready()
        del layers, values, array


def read_array(folder: Path, key: Key) -> npt.NDArray[Any]:
    """Returns a leaf of the saved tree in host memory, as it is stored."""
    arguments: dict[str, Any] = {}
    _insert(arguments, key, ocp.RestoreArgs(restore_type=np.ndarray))
    return np.asarray(_take(_restore_tree(folder, arguments), key))


def _restore_tree(folder: Path, arguments: dict[str, Any]) -> Any:
    """Returns the leaves of the saved tree that `arguments` tell how to restore."""
    request = ocp.args.PyTreeRestore(
        item=arguments,  # only its structure counts
        restore_args=arguments,
        partial_restore=True,
    )
    with (
        _buffers_outside_the_heap(),
        _orbax_errors(folder),
        ocp.PyTreeCheckpointer() as reader,
    ):
        return reader.restore(folder.absolute(), request)


@contextmanager
def _buffers_outside_the_heap() -> Iterator[None]:
    """Lets glibc map large buffers one by one, so that freeing gives them back.

    In the heap, what Orbax frees lies between the parameters of a CPU device and adds
    up to several times the largest parameter. Elsewhere this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, 1 << 16)
    try:
        yield
    finally:  # where glibc's own adjustment ends up once large buffers were freed
        mallopt(_MMAP_THRESHOLD, 32 << 20)


def save(folder: Path, tree: Mapping[Any, Any]) -> None:
    """Writes the pure dictionary of a `Decoder`'s state as an Orbax checkpoint."""
    arguments = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree)
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder.absolute(), tree, save_args=arguments)
        writer.wait_until_finished()


def saved_leaves(folder: Path) -> dict[Key, Any]:
    """Returns what Orbax tells about each leaf of the tree saved in `folder`."""
    with _orbax_errors(folder), ocp.StandardCheckpointer() as reader:
        tree = reader.metadata(folder.absolute()).item_metadata
        if tree is None:
            raise CheckpointError(f"{folder}: damaged or not readable by Orbax")
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree.tree)
    return {tuple(_key_name(step) for step in path): leaf for path, leaf in leaves}


def _key_name(step: Any) -> str:
    for attribute in ("key", "idx", "name"):  # the three kinds of jax.tree_util
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)


def _find_root(folder: Path, leaves: Mapping[Key, Any]) -> Key:
    roots = [
        root
        for root in ROOTS
        if any(key[: len(root) + 1] == (*root, "embed") for key in leaves)
    ]
    if not roots:
        raise CheckpointError(
            f"{folder}: no parameters of a Decoder; expected "
            "nnx.to_pure_dict(nnx.state(decoder)), at the top or under "
            f"{', '.join('.'.join(root) for root in ROOTS if root)}, or parameters of "
            "MaxText, Tunix or google-deepmind/gemma; "
            f"found {sorted({shown(key[0]) for key in leaves if key})[:10]}"
        )
    if len(roots) > 1:
        names = [".".join(root) or "the top" for root in roots]
        raise CheckpointError(
            f"{folder}: parameters of a Decoder are at several places: "
            f"{', '.join(names)}; save only those to serve"
        )
    return roots[0]


def _find(
    folder: Path,
    leaves: Mapping[Key, Any],
    root: Key,
    path: ParameterPath,
    *,
    model: AbstractDecoder,
) -> SavedParameter:
    shape = model.shape(path)
    key, layer = _stored_key((*root, *map(str, path)), leaves), None
    if key not in leaves and path[0] == "layers":
        stacked = _stored_key((*root, "layers", *map(str, path[2:])), leaves)
        if stacked in leaves:
            key, layer = stacked, int(path[1])
    name = shown(".".join(key))
    if key not in leaves:
        raise CheckpointError(
            f"{folder}: array {name} of shape {list(shape)} is missing; does "
            "config.json belong to these parameters?"
        )
    leaf = array_leaf(folder, key, leaves)
    expected = shape if layer is None else (model.num_layers, *shape)
    if tuple(leaf.shape) != expected:
        raise CheckpointError(
            f"{folder}: array {name} has the shape {list(leaf.shape)}, but config.json "
            f"makes it {list(expected)}; do they belong together?"
        )
    dtype = np.dtype(leaf.dtype)
    size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return SavedParameter(
        path=path, key=key, shape=shape, size_bytes=size_bytes, layer=layer
    )


def array_leaf(folder: Path, key: Key, leaves: Mapping[Key, Any]) -> Any:
    """Returns what is told about a leaf that holds weights.

    Raises:
      CheckpointError: it is no array, or one of another kind.
    """
    leaf, name = leaves[key], shown(".".join(key))
    if not isinstance(leaf, ocp.metadata.ArrayMetadata):
        raise CheckpointError(f"{folder}: {name} is not an array")
    dtype = np.dtype(leaf.dtype)
    if dtype not in WEIGHT_DTYPES.values():
        raise CheckpointError(
            f"{folder}: array {name} has the dtype {dtype}; weights must be float32, "
            "float16 or bfloat16"
        )
    return leaf


def _stored_key(key: Key, leaves: Mapping[Key, Any]) -> Key:
    """Returns the key under which a leaf is saved: an `nnx.State` adds "value"."""
    is_in_state = key not in leaves and (*key, "value") in leaves
    return (*key, "value") if is_in_state else key


def _groups(saved: list[SavedParameter]) -> Iterator[list[SavedParameter]]:
    """Consecutive parameters that together are no larger than the largest one."""
    limit = max((parameter.size_bytes for parameter in saved), default=0)
    group: list[SavedParameter] = []
    for parameter in saved:
        if sum(p.size_bytes for p in group) + parameter.size_bytes > limit:
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group


def _insert(tree: dict[str, Any], key: Key, leaf: object) -> None:
    for step in key[:-1]:
        tree = tree.setdefault(step, {})
    tree[key[-1]] = leaf


def _take(tree: Any, key: Key) -> jax.Array:
    for step in key:
        tree = tree[step]
    array: jax.Array = tree
    return array


@contextmanager
def _orbax_errors(folder: Path) -> Iterator[None]:
    """Turns what Orbax raises about damaged files into a `CheckpointError`."""
    try:
        yield
    except (CheckpointError, jax.errors.JaxRuntimeError):  # ours; out of memory
        raise
    except Exception as error:  # Orbax raises this very class for an unreadable chunk
        raise CheckpointError(
            f"{folder}: damaged or not readable by Orbax: {str(error)[:500]}"
        ) from error
