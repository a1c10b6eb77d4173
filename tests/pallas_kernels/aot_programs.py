"""Compiles all that an engine can dispatch, by the engine's own list of calls.

`worker.compile.compile_programs` is given programs that write down what XLA makes of
them, so that none can be forgotten here.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from benchmarks.kernels import thunks
from mell_jax.models.decoder import Decoder
from mell_jax.pallas_kernels import checksum_pages, gather_pages, scatter_pages
from mell_jax.worker.compile import compile_programs
from mell_jax.worker.layout import Bucket
from mell_jax.worker.pool import PAGE_TOKENS, pool_shape
from mell_jax.worker.sampling import ROW_COLUMNS, init_row_state
from mell_jax.worker.step import Programs, StepOptions, make_programs, split_model
from tests.pallas_kernels import aot

SLOTS = 64
CHUNK_PAGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """An executable, and what XLA wrote of it."""

    compiled: Any
    program: thunks.Program

    @property
    def temp_bytes(self) -> int:
        return int(self.compiled.memory_analysis().temp_size_in_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine dispatches, by name, and the size of its pool."""

    programs: dict[str, Dumped]
    pool_bytes: int


@dataclass(slots=True, kw_only=True)
class Dumping:
    """Stands where a jitted program or a lowered one does."""

    inner: Any
    mesh: Mesh
    folders: Iterator[Path]  # a new one for each program

    @contextlib.contextmanager
    def target(self) -> Iterator[None]:
        # Flax widens bfloat16 by itself.
        promotion = jax.numpy_dtype_promotion("standard")
        with promotion, jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            yield

    def eval_shape(self, *args: Any) -> Any:
        with self.target():
            return self.inner.eval_shape(*args)

    def lower(self, *args: Any, **kwargs: Any) -> "Dumping":
        with self.target():
            lowered = self.inner.lower(*args, **kwargs)
        return Dumping(inner=lowered, mesh=self.mesh, folders=self.folders)

    def compile(self, *, compiler_options: Any = None) -> Dumped:
        assert not compiler_options  # a GPU has none of its own
        folder = next(self.folders)
        with self.target():
            compiled = self.inner.compile({"xla_dump_to": str(folder)})
        (program,) = thunks.read_dump(folder)
        return Dumped(compiled=compiled, program=program)


def compile_engine(
    mesh: Mesh, *, buckets: Sequence[Bucket], layers: int, folder: Path
) -> Engine:
    """Compiles what an engine with a model of `layers` layers dispatches on a GPU."""
    jitted, arguments, shape = _engine(buckets, layers=layers, mesh=mesh)
    dump = _dump_into(folder, mesh=mesh)
    named = _compile(jitted, arguments, dump=dump)
    ids = jax.ShapeDtypeStruct((CHUNK_PAGES,), jnp.int32)
    pages = jax.ShapeDtypeStruct((CHUNK_PAGES, *shape[1:]), jnp.bfloat16)
    ids, pages = aot.place((ids, pages), mesh)
    pool = arguments["pool"]
    named["gather_pages"] = dump(gather_pages).lower(pool, ids).compile()
    named["scatter_pages"] = dump(scatter_pages).lower(pool, ids, pages).compile()
    named["checksum_pages"] = dump(checksum_pages).lower(pages).compile()
    return Engine(programs=named, pool_bytes=2 * math.prod(shape))


def compile_forwards(
    mesh: Mesh, *, buckets: Sequence[Bucket], layers: int, folder: Path
) -> dict[str, Dumped]:
    """Compiles the forward passes alone, and what is as quick as set_row."""
    jitted, arguments, _ = _engine(buckets, layers=layers, mesh=mesh)
    forwards = dataclasses.replace(jitted, scores={}, samplers={})
    return _compile(forwards, arguments, dump=_dump_into(folder, mesh=mesh))


def dumped(function: Any, *arguments: Any, mesh: Mesh, folder: Path) -> Dumped:
    """Compiles one function, to try what a dump shows of it."""
    jitted = _dump_into(folder, mesh=mesh)(jax.jit(function))
    return jitted.lower(*aot.place(arguments, mesh)).compile()


def _engine(
    buckets: Sequence[Bucket], *, layers: int, mesh: Mesh
) -> tuple[Programs, dict[str, Any], tuple[int, ...]]:
    """Returns jitted programs, what they are compiled for, and the pool's shape."""
    config = aot.nnx_config(layers)
    decoder = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    )
    parts, weights = split_model(*nnx.split(decoder))
    options = StepOptions(attention_backend="triton", page_tokens=PAGE_TOKENS)
    jitted = make_programs(parts, buckets=buckets, options=options, platform="gpu")
    shape = pool_shape(config, num_pages=aot.PAGES, platform="gpu")
    state = functools.partial(init_row_state, vocab_size=config.vocab_size)
    arguments = {
        "weights": weights,
        "pool": jax.ShapeDtypeStruct(shape, jnp.bfloat16),
        "rows": jax.eval_shape(functools.partial(state, rows=SLOTS)),
    }
    return jitted, aot.place(arguments, mesh), shape


def _compile(
    jitted: Programs, arguments: dict[str, Any], *, dump: Callable[[Any], Dumping]
) -> dict[str, Dumped]:
    made = compile_programs(
        jitted.changed(dump),
        padding={n: np.zeros((ROW_COLUMNS, n), np.int32) for n in jitted.samplers},
        platform="gpu",
        progress=False,
        threads=1,
        **arguments,
    )
    named: dict[str, Any] = {"set_row": made.set_row, "observe": made.observe}
    named |= {f"forward {_kind(b)}": one for b, one in made.forwards.items()}
    named |= {f"scores {_kind(b)}": one for b, one in made.scores.items()}
    for sampler in made.samplers.values():
        named |= sampler.programs._asdict()
    assert len(made.samplers) < 2, "those of other rows would have the same names"
    return named


def _dump_into(folder: Path, *, mesh: Mesh) -> Callable[[Any], Dumping]:
    folders = (folder / str(number) for number in itertools.count())
    return lambda jitted: Dumping(inner=jitted, mesh=mesh, folders=folders)


def _kind(bucket: Bucket) -> str:
    return "decode" if bucket.is_decode else "mixed"
