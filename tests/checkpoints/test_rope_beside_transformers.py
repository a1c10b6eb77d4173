"""Rotary embeddings against the transformers that is installed."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import (
    GEMMA3_LAYERS,
    OLMO3_LAYERS,
    read_layered_ropes,
    read_rope,
)
from mell_jax.checkpoints.rope_values import layered_rope_values, rope_values
from mell_jax.models.rope import inverse_frequencies, rope_table, rotate
from tests.models.published_ropes import PUBLISHED, published_goldens

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
goldens_maker = importlib.import_module("tests.models.make_rope_goldens")

pytestmark = pytest.mark.filterwarnings("default")
KNOWN = [name for name, case in PUBLISHED.items() if case.is_known_to_transformers]
POSITIONS = np.array([[0, 1, 2, 3, 5, 8, 13, 21, 34, 55]])
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 16.0,
    "attention_factor": 1.25,
}


def test_the_goldens_are_what_transformers_computes():
    goldens, found = published_goldens(), goldens_maker.all_references()
    assert found.keys() == goldens.keys()
    for name, golden in goldens.items():
        assert found[name]["gain"] == pytest.approx(golden["gain"], rel=1e-12)
        np.testing.assert_allclose(
            found[name]["frequencies"], golden["frequencies"], rtol=1e-6
        )


def turned_by_transformers(config, x):
    """Queries [B, T, N, H] as the attention of a model turns them."""
    queries = torch.tensor(np.array(x)).transpose(1, 2)
    cos, sin = goldens_maker.rotary_embedding(config)(queries, torch.tensor(POSITIONS))
    passing = queries[..., queries.shape[-1] :]
    if config.model_type in ("stablelm", "nemotron"):  # their attention splits heads
        queries, passing = queries.tensor_split([cos.shape[-1]], dim=-1)
    turn = goldens_maker.modelling(config.model_type).apply_rotary_pos_emb
    turned, _ = turn(queries, queries, cos, sin)
    return torch.cat([turned, passing], dim=-1).transpose(1, 2).numpy()


@pytest.mark.parametrize("name", KNOWN)
def test_heads_are_turned_as_transformers_turns_them(name):
    """Of every kind: half-split, interleaved, partial, with a gain."""
    case = PUBLISHED[name]
    x = jax.random.normal(jax.random.key(1), (1, POSITIONS.size, 2, case.head_dim))
    config = goldens_maker.reference_config(
        case.model_type, case.values, head_dim=case.head_dim
    )
    rope = read_rope(
        Fields(case.values, "config.json"), head_dim=case.head_dim, **case.family
    ).for_context(POSITIONS.size)  # transformers takes the short list here
    table = rope_table(jnp.asarray(POSITIONS), rope, head_dim=case.head_dim)
    found = rotate(x, table, is_interleaved=rope.is_interleaved)
    np.testing.assert_allclose(found, turned_by_transformers(config, x), atol=3e-5)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dropped", ["rope_scaling", "rope_parameters"])
def test_transformers_reads_what_is_written_in_either_spelling(name, dropped):
    case = PUBLISHED[name]
    written = rope_values(
        case.rope,
        head_dim=case.head_dim,
        context_tokens=case.context,
        default_share=case.family.get("default_share", 1.0),
    )
    del written[dropped]
    config = goldens_maker.reference_config(
        case.model_type,
        {"max_position_embeddings": case.context, **written},
        head_dim=case.head_dim,
    )
    embedding = goldens_maker.rotary_embedding(config)
    rope = case.rope.for_context(1)
    expected = inverse_frequencies(rope, head_dim=case.head_dim)
    np.testing.assert_allclose(embedding.inv_freq.numpy(), expected, rtol=1e-6)
    gain = 1.0 if rope.scaling is None else rope.scaling.gain
    assert embedding.attention_scaling == pytest.approx(gain)


@pytest.mark.parametrize(
    ("model_type", "layers", "values"),
    [
        ("gemma3_text", GEMMA3_LAYERS, {}),
        (
            "gemma3_text",
            GEMMA3_LAYERS,
            {
                "rope_theta": 2e6,
                "rope_local_base_freq": 3e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        (
            "gemma3_text",
            GEMMA3_LAYERS,
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_theta": 2e6,
                        "rope_type": "linear",
                        "factor": 8.0,
                    },
                    "sliding_attention": {"rope_theta": 3e4, "rope_type": "default"},
                }
            },
        ),
        ("olmo3", OLMO3_LAYERS, {"rope_theta": 500000, "rope_scaling": YARN}),
        ("olmo3", OLMO3_LAYERS, {}),
    ],
)
@pytest.mark.parametrize("is_written_again", [False, True])
def test_types_of_layers_have_the_ropes_of_transformers(
    model_type, layers, values, is_written_again
):
    context = {"max_position_embeddings": 65536}
    found = Fields({**context, **values}, "config.json")
    ropes = read_layered_ropes(found, head_dim=64, layers=layers)
    if is_written_again:
        values = layered_rope_values(
            ropes, head_dim=64, context_tokens=65536, layers=layers
        )
        del values["rope_scaling"]
    config = goldens_maker.reference_config(
        model_type, {**context, **values, "num_hidden_layers": 6}, head_dim=64
    )
    embedding = goldens_maker.rotary_embedding(config)
    for layer, rope in ropes.items():
        expected = getattr(embedding, f"{layer}_inv_freq").numpy()
        frequencies = inverse_frequencies(rope, head_dim=64)
        np.testing.assert_allclose(frequencies, expected, rtol=1e-6)
        gain = 1.0 if rope.scaling is None else rope.scaling.gain
        assert getattr(embedding, f"{layer}_attention_scaling") == pytest.approx(gain)
