import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from mell_jax.checkpoints import CheckpointError, load_model, orbax, save_orbax
from mell_jax.checkpoints.hf_config_writer import spec_of, write_spec
from tests.checkpoints.tiny import arrays, decoder, on_one_device


def load(directory, dtype=jnp.float32):
    return load_model(directory, dtype=dtype, sharding_for=on_one_device)


def train(directory, tree, **options):
    """What a user's own training leaves behind, and a config.json beside it."""
    write_spec(directory, spec_of(decoder(**options).config))
    with ocp.PyTreeCheckpointer() as checkpointer:  # takes strings as well
        checkpointer.save(directory / "orbax", tree)
    return directory


def same(state, other):
    mine, theirs = arrays(state), arrays(other)
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        np.testing.assert_array_equal(value, theirs[path])


@pytest.fixture
def saved(tmp_path):
    save_orbax(tmp_path, decoder=decoder())
    return tmp_path


def test_what_was_saved_is_loaded(saved):
    same(load(saved).state, nnx.state(decoder()))


@pytest.mark.parametrize("to", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_parameters_are_cast(tmp_path, stored, to):
    source = decoder(jnp.dtype(stored))
    save_orbax(tmp_path, decoder=source)
    loaded = arrays(load(tmp_path, jnp.dtype(to)).state)
    for path, value in arrays(nnx.state(source)).items():
        assert loaded[path].dtype == jnp.dtype(to)
        np.testing.assert_array_equal(loaded[path], value.astype(jnp.dtype(to)))


@pytest.mark.parametrize(
    "tree_of",
    [
        lambda state: state,
        nnx.to_pure_dict,
        lambda state: {"params": state, "step": np.int32(3)},
        lambda state: {
            "model": nnx.to_pure_dict(state),
            "optimizer": {"momentum": jnp.ones(4)},
        },
    ],
    ids=["state", "pure dict", "beside a step", "beside an optimizer"],
)
def test_checkpoints_of_a_training_are_accepted(tmp_path, tree_of):
    state = nnx.state(decoder())
    same(load(train(tmp_path, tree_of(state))).state, state)


def under(*names):
    def tree(state):
        for name in reversed(names):
            state = {name: state}
        return {"step": np.int32(3)} | state

    return tree


@pytest.mark.parametrize("root", [root for root in orbax.ROOTS if root])
def test_parameters_are_found_below_others(tmp_path, root):
    state = nnx.state(decoder())
    tree = under(*root)(nnx.to_pure_dict(state))
    same(load(train(tmp_path, tree)).state, state)


def test_parameters_at_two_places_are_refused(tmp_path):
    train(tmp_path, {"params": pure(), "model": pure()})
    with pytest.raises(CheckpointError, match="at several places: params, model;"):
        load(tmp_path)


def stacked(state):
    """All layers of a parameter in one array, as `nnx.scan` keeps them."""
    tree = nnx.to_pure_dict(state)
    layers = [tree["layers"][layer] for layer in sorted(tree["layers"])]
    return tree | {"layers": jax.tree.map(lambda *each: jnp.stack(each), *layers)}


def as_state(tree):
    return jax.tree.map(lambda leaf: {"value": leaf}, tree)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrap", [lambda tree: tree, as_state, under("params")])
def test_stacked_layers_are_cut(tmp_path, wrap, dtype):
    state = nnx.state(decoder(num_layers=3))
    train(tmp_path, wrap(stacked(state)), num_layers=3)
    loaded = load(tmp_path, dtype)
    assert {param.dtype for param in jax.tree.leaves(loaded.state)} == {
        jnp.dtype(dtype)
    }
    for path, value in arrays(state).items():
        np.testing.assert_array_equal(
            arrays(loaded.state)[path], value.astype(jnp.dtype(dtype))
        )


def test_stacked_layers_of_another_count_are_refused(tmp_path):
    train(tmp_path, stacked(nnx.state(decoder(num_layers=3))))
    with pytest.raises(
        CheckpointError,
        match=r"layers.attention.k_proj.kernel has the shape \[3, 64, 32\], but conf",
    ):
        load(tmp_path)


def test_groups_are_no_larger_than_the_largest_parameter():
    sizes = [3, 8, 4, 4, 1, 7, 2]
    saved = [
        orbax.SavedParameter(path=(), key=(), shape=(), size_bytes=size)
        for size in sizes
    ]
    groups = [[p.size_bytes for p in group] for group in orbax._groups(saved)]
    assert groups == [[3], [8], [4, 4], [1, 7], [2]]


def pure(**options):
    return nnx.to_pure_dict(nnx.state(decoder(**options)))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"weights": {"a": jnp.ones(3)}}, "no parameters of a Decoder; expected"),
        (pure(num_layers=1), "array layers.1.attention.k_proj.kernel of shape"),
        (pure(num_layers=3), "9 arrays that this model has no place for, such as lay"),
        (pure(vocab_size=9), "has the shape [9, 64], but config.json makes it [8, 64]"),
        (
            pure() | {"norm": {"scale": jnp.ones(64, jnp.int32)}},
            "array norm.scale has the dtype int32; weights must be float32",
        ),
        (pure() | {"norm": {"scale": 3}}, "array norm.scale has the dtype int64; we"),
        (pure() | {"norm": {"scale": "x"}}, "norm.scale is not an array"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(tmp_path, tree, message):
    train(tmp_path, tree)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_folder_that_is_no_checkpoint_is_refused(saved):
    (saved / "orbax" / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match="orbax: no finished Orbax checkpoint"):
        load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tree_metadata": 4}'])
def test_damaged_metadata_is_refused(saved, content):
    (saved / "orbax" / "_METADATA").write_text(content)
    with pytest.raises(CheckpointError, match="damaged or not readable by Orbax"):
        load(saved)


LOAD = """
import sys
from pathlib import Path
import numpy as np
from mell_jax.checkpoints import CheckpointError, load_model
from tests.checkpoints.tiny import on_one_device
for directory in map(Path, sys.argv[1:]):
    try:
        load_model(directory, dtype=np.float32, sharding_for=on_one_device)
    except CheckpointError as error:
        print(str(error).splitlines()[0])
"""


def test_missing_and_shortened_data_are_noticed(tmp_path):
    """In a process of its own: reads that Orbax gives up on complain later."""
    missing, short = tmp_path / "missing", tmp_path / "short"
    save_orbax(missing, decoder=decoder())
    shutil.rmtree(missing / "orbax" / "ocdbt.process_0")
    shutil.rmtree(missing / "orbax" / "d")
    # One parameter outweighs all others: half of the largest file lacks part of it.
    save_orbax(short, decoder=decoder(vocab_size=8192, tie_embeddings=True))
    largest = max(short.glob("orbax/**/d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, missing, short],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    )
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{missing}/orbax: damaged or not readable by Orbax")
    assert second.startswith(f"{short}/orbax: damaged or not readable by Orbax")
