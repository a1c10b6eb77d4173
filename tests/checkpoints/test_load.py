import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.checkpoints import CheckpointError, load_model, save_hf, save_orbax
from mell_jax.models.attention import causal_attention
from tests.checkpoints.tiny import (
    LAYER,
    arrays,
    decoder,
    on_one_device,
    tensors,
    write_model,
    write_shards,
)


def load(directory, dtype=jnp.float32, **options):
    return load_model(directory, dtype=dtype, sharding_for=on_one_device, **options)


@pytest.mark.parametrize("write", [write_model, write_shards])
def test_tensors_become_parameters(tmp_path, write):
    model = load(write(tmp_path))
    stored, loaded = tensors(), arrays(model.state)
    assert len(loaded) == 12
    for path, name in {
        ("embed", "embedding"): "model.embed_tokens.weight",
        ("norm", "scale"): "model.norm.weight",
        ("layers", 0, "mlp_norm", "scale"): LAYER + "post_attention_layernorm.weight",
    }.items():
        np.testing.assert_array_equal(loaded[path], stored[name])
    for path, name in {
        ("lm_head", "kernel"): "lm_head.weight",
        ("layers", 0, "attention", "k_proj", "kernel"): LAYER
        + "self_attn.k_proj.weight",
        ("layers", 0, "mlp", "down_proj", "kernel"): LAYER + "mlp.down_proj.weight",
    }.items():
        np.testing.assert_array_equal(loaded[path], stored[name].T)


def test_the_result_runs_under_jit(tmp_path):
    model = load(write_model(tmp_path))

    @jax.jit
    def logits(state, tokens):
        decoder = nnx.merge(model.graphdef, state)
        hidden, _ = decoder(tokens, tokens, None, causal_attention)
        return decoder.logits(hidden)

    out = logits(model.state, jnp.arange(5)[None])
    assert out.shape == (1, 5, 8)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("to", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_parameters_have_the_asked_precision(tmp_path, stored, to):
    write_model(tmp_path, tensors(jnp.dtype(stored)))
    loaded = arrays(load(tmp_path, jnp.dtype(to)).state)
    expected = tensors(jnp.dtype(stored))["lm_head.weight"].T.astype(jnp.dtype(to))
    assert {value.dtype for value in loaded.values()} == {jnp.dtype(to)}
    np.testing.assert_array_equal(loaded["lm_head", "kernel"], expected)


@pytest.mark.parametrize("save", [save_hf, save_orbax])
def test_each_parameter_goes_where_it_is_told(tmp_path, save):
    save(tmp_path, decoder=decoder())
    mesh = jax.sharding.Mesh(np.array(jax.devices()[2:4]), ("tp",))
    asked = {}

    def sharding_for(path, shape):
        spec = jax.P(None, "tp") if path[-1] == "kernel" else jax.P()
        asked[path] = (shape, jax.sharding.NamedSharding(mesh, spec))
        return asked[path][1]

    model = load_model(tmp_path, dtype=jnp.float32, sharding_for=sharding_for)
    loaded = dict(nnx.to_flat_state(model.state))
    assert set(asked) == set(loaded)
    for path, param in loaded.items():
        shape, sharding = asked[path]
        assert (param.shape, param[...].sharding) == (shape, sharding)
    kernel = loaded["layers", 1, "mlp", "up_proj", "kernel"][...]
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(64, 24)] * 2
    expected = arrays(nnx.state(decoder()))["layers", 1, "mlp", "up_proj", "kernel"]
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize("save", [save_hf, save_orbax])
def test_the_bar_counts_bytes_as_stored(tmp_path, capsys, save):
    save(tmp_path, decoder=decoder(jnp.bfloat16, num_layers=4))
    load(tmp_path)
    assert capsys.readouterr().err == ""
    load(tmp_path, progress=True)
    assert "loading weights: 100%" in (bar := capsys.readouterr().err)
    assert "/175k" in bar  # 4 * 21632 + 2 * 512 + 64 parameters of 2 bytes: 175,232


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        load(tmp_path / "nowhere")


def test_two_kinds_of_weights_in_one_directory_are_refused(tmp_path):
    save_orbax(tmp_path, decoder=decoder())
    write_model(tmp_path)
    with pytest.raises(CheckpointError, match="both safetensors and an Orbax"):
        load(tmp_path)


def test_nothing_is_read_before_all_shapes_are_checked(tmp_path):
    stored = tensors()
    write_model(
        tmp_path, stored, vocab_size=4_000_000, hidden_size=1_000_000, head_dim=32
    )
    with pytest.raises(CheckpointError, match=r"config\.json makes it \[4000000, 1000"):
        load(tmp_path)
