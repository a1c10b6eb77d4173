"""Orbax checkpoints are found wherever Orbax itself, old or new, has put them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from orbax.checkpoint import v1

from mell_jax.checkpoints import CheckpointError, load_model, save_orbax
from mell_jax.checkpoints.hf_config_writer import spec_of, write_spec
from mell_jax.checkpoints.orbax_layout import find_orbax
from tests.checkpoints.tiny import arrays, decoder, on_one_device

SMALL = {"a": np.zeros(2, np.float32)}


def parameters(scale=1.0):
    pure = nnx.to_pure_dict(nnx.state(decoder()))
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(scale, leaf.dtype), pure)


def save_here(home):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(home, parameters(), force=True)


def save_items(folder, steps, **options):
    """What a `CheckpointManager` writes, the tree of step n being n times ours."""
    with ocp.CheckpointManager(
        folder, options=ocp.CheckpointManagerOptions(**options)
    ) as manager:
        for step in steps:
            manager.save(step, args=ocp.args.StandardSave(parameters(step)))


def save_named(folder, **items):
    with ocp.CheckpointManager(folder) as manager:
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        manager.save(3, args=ocp.args.Composite(**saves))


def save_v1_steps(folder, steps):
    with v1.training.Checkpointer(folder) as checkpointer:
        for step in steps:
            checkpointer.save(step, parameters(step))


LAYOUTS = {
    "the directory itself": (save_here, ""),
    "steps": (lambda home: save_items(home, [1]), "1/default"),
    "steps with a prefix": (
        lambda home: save_items(
            home, [1], step_prefix="step", step_format_fixed_length=8
        ),
        "step_00000001/default",
    ),
    "items of a trainer": (
        lambda home: save_named(home, items=parameters()),
        "3/items",
    ),
    "parameters beside an optimizer": (
        lambda home: save_named(home, model_params=parameters(), optimizer_state=SMALL),
        "3/model_params",
    ),
    "Orbax v1": (lambda home: v1.save(home, parameters(), overwrite=True), "state"),
    "Orbax v1, several": (
        lambda home: v1.save_checkpointables(
            home, {"model": parameters(), "data": SMALL}, overwrite=True
        ),
        "model",
    ),
    "Orbax v1, steps": (lambda home: save_v1_steps(home, [1]), "1/state"),
}


@pytest.mark.parametrize("below", ["", "orbax"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_found_and_loaded_wherever_it_lies(tmp_path, layout, below):
    save, expected = LAYOUTS[layout]
    home = tmp_path / below
    save(home)
    write_spec(tmp_path, spec_of(decoder().config))
    assert find_orbax(tmp_path) == home / expected
    loaded = load_model(tmp_path, dtype=jnp.float32, sharding_for=on_one_device)
    mine, theirs = arrays(loaded.state), arrays(nnx.state(decoder()))
    for path, value in theirs.items():
        np.testing.assert_array_equal(mine[path], value)


def embedding(directory, **options):
    loaded = load_model(
        directory,
        dtype=jnp.float32,
        sharding_for=on_one_device,
        config=decoder().config,
        **options,
    )
    return arrays(loaded.state)["embed", "embedding"]


@pytest.mark.parametrize("save", [save_items, save_v1_steps])
def test_the_newest_step_is_taken_or_the_one_that_is_wanted(tmp_path, save):
    save(tmp_path, [2, 9, 10])
    one = arrays(nnx.state(decoder()))["embed", "embedding"]
    np.testing.assert_array_equal(embedding(tmp_path), 10 * one)
    np.testing.assert_array_equal(embedding(tmp_path, step=2), 2 * one)
    with pytest.raises(CheckpointError, match="no finished step 3; found 2, 9, 10"):
        find_orbax(tmp_path, step=3)


def test_a_step_of_a_checkpoint_without_steps_is_refused(tmp_path):
    save_orbax(tmp_path, decoder=decoder())
    with pytest.raises(CheckpointError, match="found a checkpoint that has no steps"):
        find_orbax(tmp_path, step=3)


def test_a_step_of_a_directory_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no finished Orbax checkpoint"):
        find_orbax(tmp_path, step=3)


def test_a_directory_without_checkpoint_has_none(tmp_path):
    (tmp_path / "10").mkdir()
    (tmp_path / "model.safetensors").touch()
    assert find_orbax(tmp_path) is None


def rename(step, home):
    (home / str(step)).rename(home / f"{step}.orbax-checkpoint-tmp-17")


def unmark(step, home):
    """What a write leaves that was killed where folders cannot be renamed."""
    folder = home / str(step)
    (folder / "commit_success.txt").unlink()
    path = folder / "_CHECKPOINT_METADATA"
    values = json.loads(path.read_text()) | {"metrics": {"loss": float("nan")}}
    path.write_text(json.dumps(values | {"commit_timestamp_nsecs": None}))


def empty(step, home):
    (home / str(step) / "default" / "_METADATA").unlink()


@pytest.mark.parametrize("spoil", [rename, unmark, empty])
def test_an_unfinished_step_is_passed_over(tmp_path, spoil):
    save_items(tmp_path, [2, 10])
    spoil(10, tmp_path)
    assert find_orbax(tmp_path) == tmp_path / "2" / "default"


@pytest.mark.parametrize("spoil", [rename, unmark, empty])
def test_a_checkpoint_that_is_not_finished_is_refused(tmp_path, spoil):
    save_items(tmp_path, [10])
    spoil(10, tmp_path)
    with pytest.raises(CheckpointError, match=r"no finished Orbax .* found 10"):
        find_orbax(tmp_path)


def test_a_step_that_old_versions_wrote_has_no_marks(tmp_path):
    save_items(tmp_path, [10])
    for path in tmp_path.rglob("commit_success.txt"):
        path.unlink()
    assert find_orbax(tmp_path) == tmp_path / "10" / "default"
    (tmp_path / "10" / "_CHECKPOINT_METADATA").unlink()
    assert find_orbax(tmp_path) == tmp_path / "10" / "default"


def test_a_damaged_mark_is_told(tmp_path):
    save_items(tmp_path, [10])
    (tmp_path / "10" / "commit_success.txt").unlink()
    (tmp_path / "10" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(CheckpointError, match="_CHECKPOINT_METADATA: cannot be read"):
        find_orbax(tmp_path)


@pytest.mark.parametrize(
    ("save", "names"),
    [
        (
            lambda home: save_named(home, params=SMALL, state=SMALL),
            "3/state, 3/params",
        ),
        (
            lambda home: (save_items(home, [1]), save_items(home / "orbax", [2])),
            "1/default, orbax/2/default",
        ),
        (
            lambda home: (
                save_items(home, [1]),
                save_items(home, [1], step_prefix="step"),
            ),
            "1/default, step_1/default",
        ),
        (
            lambda home: (v1.save(home / "orbax", SMALL), save_items(home, [1])),
            "1/default, orbax/state",
        ),
    ],
    ids=["two items", "two folders", "two spellings of a step", "with steps and none"],
)
def test_of_two_trees_with_equal_right_none_is_taken(tmp_path, save, names):
    save(tmp_path)
    with pytest.raises(CheckpointError, match=f"several Orbax trees .* {names};"):
        find_orbax(tmp_path)


def test_weights_of_both_kinds_are_refused(tmp_path):
    save_items(tmp_path, [1])
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="both safetensors and an Orbax"):
        embedding(tmp_path)


def test_nothing_is_saved_beside_a_checkpoint_that_is_found(tmp_path):
    save_items(tmp_path, [1])
    with pytest.raises(CheckpointError, match="has weights already"):
        save_orbax(tmp_path, decoder=decoder())


def test_a_config_given_beside_a_config_file_is_refused(tmp_path):
    save_orbax(tmp_path, decoder=decoder())
    with pytest.raises(CheckpointError, match="and so does the config that was given"):
        embedding(tmp_path)


def test_ends_of_a_text_are_read_where_a_config_is_given(tmp_path):
    save_items(tmp_path, [1])
    path = tmp_path / "generation_config.json"
    path.write_text('{"eos_token_id": [2, 5]}')
    options = {
        "dtype": jnp.float32,
        "sharding_for": on_one_device,
        "config": decoder().config,
    }
    assert load_model(tmp_path, **options).spec.eos_ids == (2, 5)
    path.write_text('{"eos_token_id": 99}')
    with pytest.raises(CheckpointError, match="99 is outside the vocabulary"):
        load_model(tmp_path, **options)
