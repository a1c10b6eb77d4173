"""Weights of an update are those that a start with the same module has."""

import contextlib
import functools
import gc
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.array import ArrayImpl
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.update import make_weights
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.weights.models import (
    JOINED,
    PLAIN,
    SIZES,
    built_weights,
    groups_of,
    make_decoder,
    plan_for,
    same,
)

OLD, NEW = make_decoder(0), make_decoder(1)


@contextlib.contextmanager
def no_host_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Arrays cannot be fetched, and nothing may be sent that nobody asked for."""

    def fetched(_: object) -> None:
        raise AssertionError("an array was fetched to the host")

    with (
        monkeypatch.context() as patch,
        jax.transfer_guard_host_to_device("disallow_explicit"),
        jax.transfer_guard_device_to_host("disallow_explicit"),
    ):
        patch.setattr(ArrayImpl, "_value", property(fetched))
        yield


def trained_on(mesh: Mesh, *, dtype=jnp.float32) -> nnx.State:
    """NEW as a trainer has it: cut over all devices where it can be."""
    state = nnx.state(make_decoder(1, dtype=dtype))
    axes = tuple(mesh.axis_names)

    def put(array: jax.Array) -> jax.Array:
        for axis, size in enumerate(array.shape):
            if size % mesh.size == 0:
                spec = PartitionSpec(*[None] * axis, axes)
                return jax.device_put(array, NamedSharding(mesh, spec))
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, state)


def mesh_of(shape: tuple[int, ...], names: tuple[str, ...], first: int = 0) -> Mesh:
    count = int(np.prod(shape))
    devices = np.array(jax.devices()[first : first + count]).reshape(shape)
    return Mesh(devices, names)


SOURCES = {
    "module": lambda: NEW,
    "state": lambda: nnx.state(NEW),
    "params": lambda: nnx.state(NEW, nnx.Param),
    "nested": lambda: nnx.to_pure_dict(nnx.state(NEW)),
    "under params": lambda: {
        "params": nnx.to_pure_dict(nnx.state(NEW)),
        "step": np.zeros(()),
    },
    "dotted": lambda: {
        ".".join(map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(nnx.state(NEW))
    },
    "tuples": lambda: {
        path: np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(nnx.state(NEW))
    },
    "numpy": lambda: jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(NEW))),
    "float64": lambda: jax.tree.map(
        lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(NEW))
    ),
    "other devices": lambda: trained_on(mesh_of((2,), ("fsdp",), first=4)),
    "a grid": lambda: trained_on(mesh_of((2, 2), ("fsdp", "tp"))),
    "three devices": lambda: trained_on(mesh_of((3,), ("x",))),
}
ALL_LAYOUTS = ("state", "numpy", "a grid")
"""Sources that are tried with every layout, others with one."""
LAYOUTS = {
    "joined": (JOINED, [[0]]),
    "plain": (PLAIN, [[1]]),
    "two instances": (JOINED, [[0], [3]]),
    "one device twice": (JOINED, [[2], [2]]),
    "tensor parallel": (PLAIN, [[0, 1]]),
    "both": (PLAIN, [[1, 0], [5, 2]]),
}


@functools.cache
def plan_of(layout: str) -> WeightsPlan:
    form, ids = LAYOUTS[layout]
    return plan_for(OLD, groups=groups_of(*ids), form=form)


@functools.cache
def built_for(layout: str, device: int, *, is_new: bool) -> tuple[jax.Array, ...]:
    form, ids = LAYOUTS[layout]
    module = NEW if is_new else OLD
    return built_weights(module, group=groups_of(ids[device])[0], form=form)


@pytest.mark.parametrize("streamed", [False, True], ids=["ready", "streamed"])
@pytest.mark.parametrize(
    ("source", "layout"),
    [
        *((source, "joined") for source in SOURCES if source not in ALL_LAYOUTS),
        *((source, layout) for source in ALL_LAYOUTS for layout in LAYOUTS),
    ],
)
def test_any_source_becomes_what_a_start_makes_of_it(source, layout, streamed):
    plan = plan_of(layout)
    made = make_weights(plan, SOURCES[source](), streamed=streamed)
    for device in range(len(LAYOUTS[layout][1])):
        assert same(made, plan, device, built_for(layout, device, is_new=True))
    assert not same(made, plan, 0, built_for(layout, 0, is_new=False))  # the control


def bytes_alive() -> int:
    return sum(
        shard.data.nbytes
        for array in jax.live_arrays()
        for shard in array.addressable_shards
    )


@pytest.mark.parametrize("layout", ["joined", "both"])
@pytest.mark.parametrize("source", ["state", "other devices", "a grid"])
def test_arrays_go_from_device_to_device(source, layout, monkeypatch):
    given, plan = SOURCES[source](), plan_of(layout)
    with no_host_copies(monkeypatch):
        made = make_weights(plan, given)
    assert same(made, plan, 0, built_for(layout, 0, is_new=True))


def test_a_copy_through_the_host_would_be_seen(monkeypatch):
    """The control: what `jax.device_put` does with an array that is cut."""
    mesh = mesh_of((4,), ("x",))
    cut = jax.device_put(jnp.zeros((8, 8)), NamedSharding(mesh, PartitionSpec("x")))
    with (
        no_host_copies(monkeypatch),
        pytest.raises(AssertionError, match="fetched"),
    ):
        jax.device_put(cut, jax.devices()[0])


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_a_trainer_s_mesh_may_be_set_meanwhile(kind):
    """Its axes may be in the types of its arrays, too."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind, kind))
    source = trained_on(mesh)
    for layout in ("joined", "both"):
        plan = plan_of(layout)
        with jax.set_mesh(mesh):
            made = make_weights(plan, source)
        assert same(made, plan, 0, built_for(layout, 0, is_new=True))


@pytest.mark.parametrize("layout", ["joined", "both"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_second_update_compiles_nothing(layout, streamed):
    plan = plan_of(layout)
    sources = ["module", "numpy", "a grid"]
    for source in sources:
        make_weights(plan, SOURCES[source](), streamed=streamed)
    given = [SOURCES[source]() for source in sources]
    counter = CompilationCounter()
    made = [make_weights(plan, one, streamed=streamed) for one in given]
    for one in made:
        for device in plan.groups:
            assert len(list(one.parts(device))) == len(plan.places)
    assert counter.count == 0
    jax.jit(lambda x: x + 4321.0)(jnp.zeros(3))
    assert counter.count > 0  # the control


def test_a_streamed_one_compiles_before_it_is_asked():
    plan = plan_for(OLD, groups=groups_of([0, 1], [3, 4]), form=PLAIN)
    made = make_weights(plan, SOURCES["a grid"](), streamed=True)
    counter = CompilationCounter()
    for device in plan.groups:
        assert len(list(made.parts(device))) == len(plan.places)
    assert counter.count == 0


@pytest.mark.parametrize("source", ["state", "numpy"])
def test_no_memory_is_shared_with_the_source(source):
    """So that a trainer may donate what it gave, or write over it."""
    given = SOURCES[source]()
    if source == "state":
        given = jax.tree.map(jnp.copy, given)
    for layout in ("joined", "plain", "one device twice"):
        plan = plan_of(layout)
        made = make_weights(plan, given)
        theirs = {
            shard.data.unsafe_buffer_pointer()
            for array in jax.tree.leaves(given)
            if isinstance(array, jax.Array)
            for shard in array.addressable_shards
        } | {a.ctypes.data for a in jax.tree.leaves(given) if isinstance(a, np.ndarray)}
        for device in plan.groups:
            for _, array in made.parts(device):
                for shard in array.addressable_shards:
                    assert shard.data.unsafe_buffer_pointer() not in theirs
    for array in jax.tree.leaves(given):
        if isinstance(array, jax.Array):
            array.delete()
    assert same(made, plan, 0, built_for("one device twice", 0, is_new=True))


def test_matrices_of_one_shape_are_not_taken_for_each_other():
    """The embedding stays as it is, and a head of the same shape is turned."""
    config = uniform_config(**{**SIZES, "vocab_size": 16, "num_layers": 1})
    groups = groups_of([0], config=config)
    plan = plan_for(make_decoder(0, config=config), groups=groups)
    new = make_decoder(1, config=config)
    expected = built_weights(new, group=groups[0])
    assert same(make_weights(plan, new), plan, 0, expected)


@pytest.mark.parametrize("layout", ["joined", "two instances"])
def test_arrays_of_weak_types_are_served_as_others(layout):
    """What `jnp.full` and Python's numbers make may become another type anew."""
    source = nnx.to_pure_dict(nnx.state(make_decoder(1)))
    source["norm"]["scale"] = jnp.full(16, 2.0)
    assert source["norm"]["scale"].weak_type
    made = make_weights(plan_of(layout), source)
    for device in plan_of(layout).groups:
        assert not any(array.weak_type for _, array in made.parts(device))


LAYER = 4 * (  # bytes of one of the joined layers
    (16 + 1) * (128 + 64 + 64) + 2 * 32 + 128 * 16 + 2 * 16 + 16 * (24 + 24) + 24 * 16
)


def most_bytes(made, served: list[jax.Array], *, over: bool) -> int:
    """What an engine takes more at most, if nobody else refers to the old arrays."""
    before, most = bytes_alive(), 0
    for number, array in made.parts(
        0, over=served.__getitem__ if over else lambda _: None
    ):
        served[number] = array
        del array
        most = max(most, bytes_alive() - before)
    return most


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("source", ["state", "numpy"])
def test_a_streamed_update_takes_a_layer_more_at_most(source, streamed):
    """Old arrays are given back as the engine does it; the ready one is the control."""
    plan, given = plan_of("joined"), SOURCES[source]()
    make_weights(plan, given)
    served = list(built_weights(OLD, group=plan.groups[0]))
    nbytes = sum(array.nbytes for array in served)
    gc.collect()  # what tests before this one left
    alive = bytes_alive()
    made = make_weights(plan, given, streamed=streamed)
    assert made.nbytes == nbytes == 2 * LAYER + 4 * 16 * (32 + 32 + 1)
    most = bytes_alive() - alive + most_bytes(made, served, over=False)
    assert (most <= LAYER) == streamed
    assert (most >= nbytes) != streamed


def test_a_streamed_update_writes_over_what_is_not_needed_any_more():
    plan, first = plan_of("joined"), make_weights(plan_of("joined"), OLD)
    served = [array for _, array in sorted(first.parts(0))]
    del first
    before, old = where(served), list(served)
    made = make_weights(plan, NEW, streamed=True)
    gc.collect()
    assert most_bytes(made, served, over=True) == 0
    assert where(served) == before
    assert all(array.is_deleted() for array in old)
    for mine, array in zip(served, built_for("joined", 0, is_new=True), strict=True):
        np.testing.assert_array_equal(mine, array)
    assert not any(array.is_deleted() for array in jax.tree.leaves(nnx.state(NEW)))


def where(arrays: list[jax.Array]) -> list[int]:
    return [array.unsafe_buffer_pointer() for array in arrays]


@pytest.mark.parametrize("source", ["state", "numpy", "a grid"])
@pytest.mark.parametrize("layout", ["joined", "tensor parallel"])
def test_what_is_written_over_old_arrays_is_the_same(source, layout):
    """Layers some of whose arrays are somebody else's are made in fresh memory."""
    plan = plan_of(layout)
    old = dict(make_weights(plan, OLD).parts(0))
    made = make_weights(plan, SOURCES[source](), streamed=True)
    theirs = min(old)
    found = dict(made.parts(0, over=lambda n: None if n == theirs else old[n]))
    for number, array in enumerate(built_for(layout, 0, is_new=True)):
        np.testing.assert_array_equal(found[number], array)
    assert not old[theirs].is_deleted()
    if layout == "joined" or source == "state":  # others are taken as they come
        assert any(array.is_deleted() for array in old.values())


@pytest.mark.parametrize(("streamed", "count"), [(False, 4), (True, 8)])
def test_layers_that_are_alike_are_made_by_one_program(streamed, count):
    """One each for a layer, embedding, norm and head; to write over old ones, too."""
    for layers in (2, 4):
        config = uniform_config(**{**SIZES, "num_layers": layers})
        source = make_decoder(1, config=config)
        plan = plan_for(source, groups=groups_of([0], config=config))
        counter = CompilationCounter()
        made = make_weights(plan, source, streamed=streamed)
        assert counter.count == count
        assert len(list(made.parts(0))) == len(plan.places)
        assert counter.count == count


@pytest.mark.parametrize(
    ("given", "dtype", "form", "ids"),
    [
        ("bfloat16", "float32", JOINED, [0]),
        ("float32", "bfloat16", JOINED, [0]),
        ("float16", "bfloat16", PLAIN, [2, 3]),
    ],
)
def test_weights_are_cast_as_at_a_start(given, dtype, form, ids):
    source = make_decoder(1, dtype=jnp.dtype(given))
    groups = groups_of(ids)
    plan = plan_for(OLD, groups=groups, form=form, dtype=jnp.dtype(dtype))
    expected = built_weights(source, group=groups[0], form=form, dtype=jnp.dtype(dtype))
    assert same(make_weights(plan, source), plan, 0, expected)
