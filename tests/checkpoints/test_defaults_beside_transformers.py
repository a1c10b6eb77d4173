"""Keys that are absent take the defaults of the transformers that is installed."""

import json

import pytest

from mell_jax.checkpoints.families import FAMILIES
from tests.checkpoints.tiny import parsed

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed"
)

pytestmark = pytest.mark.filterwarnings("default")
SIZES = (
    *("architectures", "model_type", "vocab_size", "hidden_size"),
    *("intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


# By default this one is a model of another kind, most of whose layers are Mamba's.
HYBRID = "GraniteMoeHybridForCausalLM"


@pytest.mark.parametrize("architecture", sorted(set(FAMILIES) - {HYBRID}))
def test_a_file_with_sizes_alone_is_read_as_transformers_reads_it(architecture):
    model_type = FAMILIES[architecture].model_type
    config = transformers.AutoConfig.for_model(model_type, architectures=[architecture])
    written = json.loads(config.to_json_string(use_diff=False))
    whole = {key: value for key, value in written.items() if key not in TOKENS}
    sizes = {key: value for key, value in whole.items() if key in SIZES}
    assert sizes.keys() == set(SIZES)
    assert parsed(sizes).config == parsed(whole).config
