"""Checkpoints on disk become weights if they are of the model that is served."""

import json
from pathlib import Path

import pytest
from flax import nnx

from mell_jax.checkpoints import CheckpointError, save_hf, save_orbax
from mell_jax.engine.weights.update import make_weights
from mell_jax.models.rope import RopeConfig
from mell_jax.models.uniform import uniform_config
from tests.engine.weights.models import (
    PLAIN,
    SIZES,
    built_weights,
    groups_of,
    make_decoder,
    plan_for,
    same,
)

OPTIONS = {**SIZES, "qkv_bias": True}
CONFIG = uniform_config(**OPTIONS)
OLD, NEW = make_decoder(0, config=CONFIG), make_decoder(1, config=CONFIG)
PLAN = plan_for(OLD, groups=groups_of([0]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("write", [save_hf, save_orbax])
def test_a_directory_is_read(write, streamed, tmp_path: Path) -> None:
    write(tmp_path, decoder=NEW)
    made = make_weights(PLAN, tmp_path, streamed=streamed)
    assert same(made, PLAN, 0, built_weights(NEW, group=PLAN.groups[0]))


def test_a_directory_without_a_description_is_of_the_served_model(tmp_path) -> None:
    save_orbax(tmp_path, decoder=NEW)
    (tmp_path / "config.json").unlink()
    made = make_weights(PLAN, str(tmp_path))
    assert same(made, PLAN, 0, built_weights(NEW, group=PLAN.groups[0]))


@pytest.mark.parametrize("ids", [[[0, 1]], [[2], [3]]])
def test_a_directory_is_read_onto_all_groups(ids, tmp_path: Path) -> None:
    save_hf(tmp_path, decoder=NEW)
    plan = plan_for(OLD, groups=groups_of(*ids), form=PLAIN)
    made = make_weights(plan, tmp_path)
    for device, group in plan.groups.items():
        assert same(made, plan, device, built_weights(NEW, group=group, form=PLAIN))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 32}, r"layers.0.feed_forward.size is 32, served is 24"),
        ({"num_layers": 3}, "layers has 3 entries, served are 2"),
        ({"rope": RopeConfig(theta=7.0)}, r"rope.theta is 7.0, served is 10000.0"),
        ({"vocab_size": 40}, "vocab_size is 40, served is 32"),
    ],
)
def test_another_model_is_told(change, said, tmp_path: Path) -> None:
    config = uniform_config(**{**OPTIONS, **change})
    save_hf(tmp_path, decoder=make_decoder(1, config=config))
    with pytest.raises(CheckpointError, match=f"another model .*{said}"):
        make_weights(PLAN, tmp_path)


@pytest.mark.parametrize(
    ("served", "found", "is_taken"),
    [
        ((2,), (2,), True),
        ((2, 7), (7,), True),  # one less ends nothing too early
        ((2,), (), True),
        ((), (2,), True),  # callers end texts
        ((2,), (2, 7), False),
        ((2,), (7,), False),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_other_ends_of_a_text_are_told(
    file: str,
    served: tuple[int, ...],
    found: tuple[int, ...],
    is_taken: bool,
    tmp_path: Path,
) -> None:
    is_in_config = file == "config.json"
    save_hf(tmp_path, decoder=NEW, eos_ids=found if is_in_config else ())
    if not is_in_config:
        said = json.dumps({"eos_token_id": [*found, 999]})  # outside the vocabulary
        (tmp_path / file).write_text(said)
    plan = plan_for(OLD, groups=groups_of([0]), eos_ids=served)
    if is_taken:
        assert make_weights(plan, tmp_path).nbytes > 0
    else:
        with pytest.raises(CheckpointError, match=r"served are 2: .* go on after 7"):
            make_weights(plan, tmp_path)


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing"):
        make_weights(PLAN, tmp_path / "nothing")


def test_names_of_a_checkpoint_need_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has names that are known"):
        make_weights(PLAN, tmp_path, mapping="hf")


def test_a_module_of_other_parameters_takes_no_directory(tmp_path: Path) -> None:
    save_hf(tmp_path, decoder=NEW)
    adapted = make_decoder(0, config=CONFIG)
    adapted.layers[1].mlp.down_proj = nnx.LoRALinear(
        24, 16, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0)
    )
    plan = plan_for(adapted, groups=groups_of([0]))
    with pytest.raises(CheckpointError, match=r"served has others, such as .*lora"):
        make_weights(plan, tmp_path)


def test_a_model_of_a_directory_is_made_of_it_again(built, tiny_directory) -> None:
    """The plan that an engine is built with is that of its own weights."""
    ((name, plan),) = built.plans.items()
    (held,) = built.engine.instance_pool.held(name).values()
    made = make_weights(plan, tiny_directory)
    assert made.nbytes == held.nbytes
    assert same(made, plan, 0, held.arrays)
