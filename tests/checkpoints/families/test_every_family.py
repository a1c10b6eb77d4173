"""What holds for each family that has a tiny model."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.hf_config_writer import config_values
from tests.checkpoints.tiny import parsed
from tests.parity.tiny_models import families

HAVE_A_SHARE = {"glm", "glm4", "nemotron", "phi3", "stablelm"}
"""Types of models in which transformers lets a part of each head turn."""


@pytest.mark.parametrize("name", sorted(families()))
def test_a_family_reads_what_it_writes(name):
    spec = parsed(families()[name].config)
    assert parsed(config_values(spec)) == spec


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, family in sorted(families().items())
        if family.config["model_type"] not in HAVE_A_SHARE
    ],
)
def test_a_share_of_a_head_is_refused_where_transformers_turns_it_whole(name):
    values = {**families()[name].config, "rotary_pct": 0.5}
    with pytest.raises(CheckpointError, match="channels of a head to turn, but all of"):
        parsed(values)
