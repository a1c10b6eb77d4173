"""Nothing that an engine dispatches makes a host wait for its GPU, or copies the pool.

The bounds of `aot_bounds.json` are what was measured; who makes a program smaller
writes the new figure there. `make aot` prints the figures of now.
"""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernels import thunks
from mell_jax.worker.layout import Bucket
from tests.pallas_kernels import aot
from tests.pallas_kernels.aot_programs import (
    Dumped,
    Engine,
    compile_engine,
    compile_forwards,
    dumped,
)

pytestmark = [
    pytest.mark.aot_gpu,
    pytest.mark.usefixtures("nothing_kept"),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None, reason="run `make aot`"
    ),
]
BUCKETS = (
    Bucket(tokens=64, rows=64, pages=256, is_decode=True),
    Bucket(tokens=512, rows=64, pages=256, is_decode=False),
)
BOUNDS = json.loads(Path(__file__).with_name("aot_bounds.json").read_text())
FORWARDS = ("forward decode", "forward mixed")
DONATED = (*FORWARDS, "scatter_pages")
LAYERS = 2


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return aot.gpu_mesh("h100")


@pytest.fixture(scope="module")
def engine(mesh: jax.sharding.Mesh, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("engine")
    return compile_engine(mesh, buckets=BUCKETS, layers=LAYERS, folder=folder)


@pytest.fixture(scope="module")
def deeper(
    mesh: jax.sharding.Mesh, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Dumped]:
    """Forward passes of a model with one more layer."""
    folder = tmp_path_factory.mktemp("deeper")
    return compile_forwards(mesh, buckets=BUCKETS, layers=LAYERS + 1, folder=folder)


@pytest.mark.parametrize("name", BOUNDS)
def test_no_program_makes_a_host_wait(engine: Engine, name: str) -> None:
    program = engine.programs[name].program
    assert thunks.num_launches(program.thunks) > 0  # the dump was read
    assert thunks.waits(program.thunks) == ()
    assert program.copies_to_host() == {}  # results stay, and are fetched when wanted


@pytest.mark.parametrize("name", BOUNDS)
def test_no_program_makes_a_second_pool(engine: Engine, name: str) -> None:
    made = engine.programs[name]
    memory = made.compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert made.temp_bytes + fresh < engine.pool_bytes / 2
    assert made.program.copies(at_least=engine.pool_bytes // 8) == {}
    if name in DONATED:
        assert memory.alias_size_in_bytes >= engine.pool_bytes


@pytest.mark.parametrize("name", BOUNDS)
def test_no_program_has_grown(engine: Engine, name: str) -> None:
    made, bound = engine.programs[name], BOUNDS[name]
    launches = thunks.num_launches(made.program.thunks)
    print(f"\n{name}: {launches} launches, {made.temp_bytes:,} temporary bytes")
    assert launches <= bound["launches"]
    assert made.temp_bytes <= bound["temp_bytes"]


@pytest.mark.parametrize("name", FORWARDS)
def test_no_layer_has_grown(
    engine: Engine, deeper: dict[str, Dumped], name: str
) -> None:
    fewer, more = (
        thunks.launches_by_name(made.program.thunks)
        for made in (engine.programs[name], deeper[name])
    )
    added = more.total() - fewer.total()
    print(f"\n{name}: {added} launches per layer: {_words(more - fewer)}")
    assert added <= BOUNDS[name]["launches_per_layer"]
    assert deeper[name].temp_bytes <= BOUNDS[name]["temp_bytes"]


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_pass_is_one_launch_of_its_host(engine: Engine, name: str) -> None:
    outside = thunks.kinds_outside(engine.programs[name].program.thunks)
    assert outside == {thunks.COMMAND_BUFFER: 1}


def test_every_program_has_its_bounds(engine: Engine) -> None:
    assert engine.programs.keys() == BOUNDS.keys()


def test_what_is_looked_for_is_found(mesh: jax.sharding.Mesh, tmp_path: Path) -> None:
    """The control: a loop, a copy to the host and a pool that is not donated."""

    def bad(pool: jax.Array, end: jax.Array) -> tuple[jax.Array, ...]:
        grown = jax.lax.fori_loop(0, end, lambda i, x: x + i, pool)
        return pool.at[end].set(0), jax.device_put(grown, jax.memory.Space.Host)

    pool = jax.ShapeDtypeStruct((1024, 1024), jnp.int32)
    end = jax.ShapeDtypeStruct((), jnp.int32)
    program = dumped(bad, pool, end, mesh=mesh, folder=tmp_path).program
    assert [thunk.kind for thunk in thunks.waits(program.thunks)] == ["kWhile"]
    assert list(program.copies_to_host().values()) == [4 * 2**20]
    assert len(program.copies(at_least=4 * 2**20)) >= 2


def _words(launches: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(launches.items()))
