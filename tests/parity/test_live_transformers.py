"""The same comparison against the transformers that is installed, and back again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.checkpoints import load_model, save_hf
from mell_jax.models.attention import causal_attention
from tests.parity.tiny_models import families, load_golden, prompt, write_hf

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed"
)


def reference_logits(directory, ids):
    """Logits [T, V] of transformers, float32 and eager attention."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return model(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()


def our_logits(directory, ids):
    model = load_model(
        directory,
        dtype=jnp.float32,
        sharding_for=lambda *_: jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        context_tokens=len(ids),
    )
    decoder = nnx.merge(model.graphdef, model.state)
    positions = jnp.arange(len(ids))[None]
    hidden, _ = decoder(jnp.asarray(ids)[None], positions, None, causal_attention)
    return decoder, np.asarray(decoder.logits(hidden)[0])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(families()))
def test_both_ways_of_the_format_agree_with_transformers(tmp_path, name):
    write_hf(tmp_path / "in", families()[name])
    ids = prompt(130)
    expected = reference_logits(tmp_path / "in", ids)
    decoder, found = our_logits(tmp_path / "in", ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    save_hf(tmp_path / "out", decoder=decoder)
    again = reference_logits(tmp_path / "out", ids)
    np.testing.assert_array_equal(again, expected)


@pytest.mark.filterwarnings("default")
def test_the_goldens_are_what_transformers_computes(tmp_path):
    for name, family in families().items():
        write_hf(tmp_path / name, family)
        golden = load_golden(name)
        expected = np.concatenate([golden.prefill_logits, golden.decode_logits])
        ids = np.concatenate([golden.prompt, golden.decoded])
        found = reference_logits(tmp_path / name, ids)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
