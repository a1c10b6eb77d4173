"""Makes leaves of other arrays: by a `Source` of checkpoints, or by any function.

A function is given the arrays of the source by name and is compiled for those that it
asks for, where these are:

    lambda tree: tree["base.kernel"] + tree["lora.a"] @ tree["lora.b"]
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.sources import Concatenate, Shape, Source, Stack, Take
from mell_jax.checkpoints.traced_sources import trace_source
from mell_jax.engine.weights.leaves import DeviceLeaf, HostLeaf, Leaf, described
from mell_jax.engine.weights.programs import ProgramCache
from mell_jax.engine.weights.routes import pieces_of, put_on_devices
from mell_jax.engine.weights.tree import Array
from mell_jax.worker.settings import own_settings, tracing_settings

MakeArray = Callable[[Mapping[str, jax.Array]], jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostArrays:
    """Arrays of NumPy by name; a `Reader` of sources."""

    arrays: Mapping[str, Array]
    dtype: npt.DTypeLike

    def shape(self, name: str, /) -> Shape:
        return tuple(self.arrays[name].shape)

    def read(
        self,
        name: str,
        /,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        whole = np.asarray(self.arrays[name])
        part = whole if rows is None else whole[rows]
        wanted = np.dtype(self.dtype if dtype is None else dtype)
        return part.astype(wanted, copy=False)


def leaf_of(array: Array) -> Leaf:
    """Returns the leaf that an array is."""
    if isinstance(array, jax.Array):
        return DeviceLeaf.of(array)
    return HostLeaf(
        shape=array.shape,
        dtype=array.dtype,
        put=lambda dtype, to: jax.device_put(np.array(array, dtype, copy=True), to),
    )


def leaf_from(
    source: Source, arrays: Mapping[str, Array], *, dtype: Any, programs: ProgramCache
) -> Leaf:
    """Returns the leaf that a source makes of arrays, all of which are there.

    Those of NumPy are worked on in host memory, those of jax where they are.
    """
    names = tuple(dict.fromkeys(source.names()))
    if not any(isinstance(arrays[name], jax.Array) for name in names):
        reader = HostArrays(arrays=arrays, dtype=dtype)
        return HostLeaf(
            shape=source.shape(reader),
            dtype=np.result_type(*(arrays[name].dtype for name in names)),
            put=lambda wanted, to: jax.device_put(
                np.array(source.read(replace(reader, dtype=wanted)), copy=True), to
            ),
        )
    numbers = {name: str(number) for number, name in enumerate(names)}
    alike = _renamed(source, numbers)

    def make(given: Mapping[str, jax.Array]) -> jax.Array:
        return trace_source(alike, given, dtype=dtype)

    return _made(
        ("source", alike, np.dtype(dtype)),
        make,
        {numbers[name]: arrays[name] for name in names},
        programs=programs,
    )


def leaf_by(
    function: MakeArray, arrays: Mapping[str, Array], *, programs: ProgramCache
) -> tuple[Leaf, frozenset[str]]:
    """Returns the leaf that a function makes, and the names that it asked for.

    Raises:
      KeyError: it asked for a name that is not there.
      TypeError: it returns no array.
    """
    asked = _Asked(arrays)
    with tracing_settings():
        made = jax.eval_shape(lambda: function(asked))
    if not isinstance(made, jax.ShapeDtypeStruct):
        raise TypeError(
            f"a function of mapping must return one array, got {type(made).__name__}"
        )
    names = frozenset(asked.names)
    used = {name: arrays[name] for name in sorted(names)}
    return _made(("function", function), function, used, programs=programs), names


class _Asked(Mapping[str, jax.Array]):
    """Stands for the arrays of a source while a function is tried out."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> jax.Array:
        array = self._arrays[name]
        self.names.add(name)
        return jnp.zeros(array.shape, array.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _made(
    what: Hashable,
    make: MakeArray,
    arrays: Mapping[str, Array],
    *,
    programs: ProgramCache,
) -> DeviceLeaf:
    names = tuple(arrays)
    given = _on_one_mesh(list(arrays.values()))
    with tracing_settings():
        program = programs.get(
            (what, names),
            lambda *some: make(dict(zip(names, some, strict=True))),
            [described(array) for array in given],
        )
    shape = program.out_info
    return DeviceLeaf(
        array=jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=program.output_shardings
        ),
        get=lambda: program(*given),
        is_own=True,
    )


def _on_one_mesh(arrays: Sequence[Array]) -> list[jax.Array]:
    """Puts arrays of NumPy beside those of jax."""
    there = [a for a in arrays if isinstance(a, jax.Array)]
    pieces = pieces_of(there[0].sharding, there[0].shape) if there else {}
    devices = list(pieces) or None
    to: Any = None
    if devices is not None and len(devices) > 1:
        mesh = jax.sharding.Mesh(np.array(devices), ("all",))
        to = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    elif devices is not None:
        to = devices[0]

    def put(array: Array) -> jax.Array:
        if isinstance(array, jax.Array):
            return put_on_devices(array)
        with own_settings():
            moved: jax.Array = jax.device_put(array, to)
        return moved

    return [put(array) for array in arrays]


def _renamed(source: Source, numbers: Mapping[str, str]) -> Source:
    """Names tensors by numbers: sources of layers that are alike become equal."""
    if isinstance(source, Take):
        return Take(numbers[source.name])
    if isinstance(source, Stack | Concatenate):
        inner = tuple(_renamed(one, numbers) for one in source.sources)
        return replace(source, sources=inner)
    outer: Any = source
    renamed: Source = replace(outer, source=_renamed(outer.source, numbers))
    return renamed
