"""What holds for each family that has a tiny model."""

import pytest

from mell_jax.checkpoints.hf_config_writer import config_values
from tests.checkpoints.tiny import parsed
from tests.parity.tiny_models import families


@pytest.mark.parametrize("name", sorted(families()))
def test_a_family_reads_what_it_writes(name):
    spec = parsed(families()[name].config)
    assert parsed(config_values(spec)) == spec
