import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from mell_jax.checkpoints import (
    CheckpointError,
    load_model,
    read_spec,
    save_hf,
    save_orbax,
)
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import Llama3Rope
from tests.checkpoints.tiny import (
    arrays,
    config_values,
    decoder,
    decoder_of,
    on_one_device,
    parsed,
)

LLAMA3 = Llama3Rope(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64
)
OPTIONS = [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"rope": RopeConfig(theta=5e5, scaling=LLAMA3)}),
    ("LlamaForCausalLM", {"tie_embeddings": True}),
    ("LlamaForCausalLM", {"qkv_bias": True, "output_bias": True, "mlp_bias": True}),
    ("MistralForCausalLM", {"windows": (16, 16)}),
    ("Qwen2ForCausalLM", {"qkv_bias": True}),
    ("Qwen2ForCausalLM", {"qkv_bias": True, "windows": (None, 16)}),
    ("Qwen3ForCausalLM", {"has_qk_norm": True, "head_dim": 64}),
    ("Qwen3ForCausalLM", {"has_qk_norm": True, "windows": (16, None)}),
]


SLIDING_FIRST = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SLIDING_LAST = {
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 16,
}
LONG_ROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [4.0] * 8}
PHI3 = {"partial_rotary_factor": 0.5, "rope_scaling": LONG_ROPE}
GRANITE = {
    "attention_multiplier": 0.25,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 10.0,
}
GRANITE_HYBRID = {
    **GRANITE,
    "layer_types": ["attention", "attention"],
    "num_local_experts": 0,
    "shared_intermediate_size": 48,
}
VALUES = [
    ("Phi3ForCausalLM", "phi3", {**PHI3, "original_max_position_embeddings": 128}),
    ("Phi3ForCausalLM", "phi3", {**PHI3, "original_max_position_embeddings": 64}),
    ("GraniteForCausalLM", "granite", {**GRANITE, "attention_bias": True}),
    ("GraniteMoeHybridForCausalLM", "granitemoehybrid", GRANITE_HYBRID),
    ("GlmForCausalLM", "glm", {}),
    ("GlmForCausalLM", "glm", {"partial_rotary_factor": 1.0}),
    ("Glm4ForCausalLM", "glm4", {"attention_bias": False}),
    ("SmolLM3ForCausalLM", "smollm3", {"no_rope_layers": [0, 1]}),
    (
        "SmolLM3ForCausalLM",
        "smollm3",
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 16},
    ),
    ("Exaone4ForCausalLM", "exaone4", {"sliding_window_pattern": 2}),
    ("Exaone4ForCausalLM", "exaone4", {"sliding_window_pattern": 3}),
    ("GemmaForCausalLM", "gemma", {"hidden_act": "gelu", "attention_bias": True}),
    ("Gemma2ForCausalLM", "gemma2", {"tie_word_embeddings": True}),
    (
        "Gemma2ForCausalLM",
        "gemma2",
        {"query_pre_attn_scalar": 144, "final_logit_softcapping": 20.0, **SLIDING_LAST},
    ),
    ("Gemma3ForCausalLM", "gemma3_text", {"query_pre_attn_scalar": 168}),
    (
        "Gemma3ForCausalLM",
        "gemma3_text",
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, **SLIDING_LAST},
    ),
    ("Gemma3ForCausalLM", "gemma3_text", {"sliding_window_pattern": 1}),
    ("Olmo2ForCausalLM", "olmo2", {"attention_bias": True}),
    ("Olmo3ForCausalLM", "olmo3", {"rope_scaling": YARN, **SLIDING_FIRST}),
    ("CohereForCausalLM", "cohere", {"use_qk_norm": True, "attention_bias": True}),
    ("Cohere2ForCausalLM", "cohere2", {"rope_scaling": YARN, **SLIDING_FIRST}),
    ("NemotronForCausalLM", "nemotron", {"hidden_act": "relu2", "mlp_bias": True}),
    ("NemotronForCausalLM", "nemotron", {"partial_rotary_factor": 1.0}),
    ("StableLmForCausalLM", "stablelm", {"use_qkv_bias": True}),
    (
        "StableLmForCausalLM",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True, "rope_pct": 1.0},
    ),
    ("Starcoder2ForCausalLM", "starcoder2", {"sliding_window": 16}),
    ("Starcoder2ForCausalLM", "starcoder2", {"use_bias": False}),
    ("SeedOssForCausalLM", "seed_oss", {"mlp_bias": True}),
    (
        "SeedOssForCausalLM",
        "seed_oss",
        {"attention_bias": False, "attention_out_bias": True},
    ),
    ("MinistralForCausalLM", "ministral", SLIDING_FIRST),
    ("CwmForCausalLM", "cwm", {"mlp_bias": True, **SLIDING_FIRST}),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("architecture", "options"), OPTIONS)
def test_a_decoder_survives_the_way_out_and_in(tmp_path, architecture, options, dtype):
    source = decoder(jnp.dtype(dtype), **options)
    check_way_out_and_in(tmp_path, source, architecture=architecture, dtype=dtype)


@pytest.mark.parametrize(("architecture", "model_type", "changes"), VALUES)
def test_a_decoder_of_each_family_survives_the_way_out_and_in(
    tmp_path, architecture, model_type, changes
):
    values = config_values(
        architectures=[architecture],
        model_type=model_type,
        num_hidden_layers=2,
        head_dim=32,
        **changes,
    )
    source = decoder_of(parsed(values).config)
    check_way_out_and_in(tmp_path, source, architecture=architecture, dtype="float32")


def test_a_decoder_of_a_shorter_context_is_written_as_the_whole_model(tmp_path):
    values = config_values(
        architectures=["Phi3ForCausalLM"],
        model_type="phi3",
        original_max_position_embeddings=64,
        **PHI3,
    )
    whole = parsed(values).config
    short = whole.for_context(64)
    assert short != whole
    save_hf(tmp_path, decoder=decoder_of(short))
    assert read_spec(tmp_path).config == whole


def check_way_out_and_in(tmp_path, source, *, architecture, dtype):
    save_hf(tmp_path, decoder=source, eos_ids=(3, 4), bos_id=1)
    model = load_model(tmp_path, dtype=jnp.dtype(dtype), sharding_for=on_one_device)
    assert model.spec.architecture == architecture
    assert model.spec.config == source.config
    assert (model.spec.eos_ids, model.spec.bos_id) == ((3, 4), 1)
    assert model.spec.dtype_name == dtype
    loaded = arrays(model.state)
    for path, value in arrays(nnx.state(source)).items():
        np.testing.assert_array_equal(loaded[path], value)


def test_the_reference_library_reads_the_file(tmp_path):
    source = decoder()
    save_hf(tmp_path, decoder=source)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert len(file.keys()) == 21
        assert file.metadata() == {"format": "pt"}
        stored = file.get_tensor("model.layers.1.self_attn.k_proj.weight")
    kernel = arrays(nnx.state(source))["layers", 1, "attention", "k_proj", "kernel"]
    assert stored.shape == (32, 64)
    np.testing.assert_array_equal(stored, kernel.T)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_without_end_tokens_none_are_written(tmp_path):
    save_orbax(tmp_path, decoder=decoder())
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None
    spec = read_spec(tmp_path)
    assert (spec.eos_ids, spec.bos_id) == ((), None)


@pytest.mark.parametrize("first", [save_hf, save_orbax])
@pytest.mark.parametrize("second", [save_hf, save_orbax])
def test_weights_are_never_written_over(tmp_path, first, second):
    first(tmp_path, decoder=decoder())
    with pytest.raises(CheckpointError, match="has weights already; choose an empty"):
        second(tmp_path, decoder=decoder())


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": True, "mlp_bias": True, "windows": (16, 16)},
        {"has_qk_norm": True, "mlp_bias": True},
        {"has_qk_norm": True, "output_bias": True},
        {"windows": (16, 32)},
        {"windows": (16, 16), "output_bias": True},
    ],
)
def test_options_that_no_architecture_has_are_refused(tmp_path, options):
    with pytest.raises(CheckpointError, match="none of LlamaForCausalLM, Mistral"):
        save_hf(tmp_path, decoder=decoder(**options))
    assert list(tmp_path.iterdir()) == []


def test_an_end_token_outside_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="special token 8 is outside the vocabulary"):
        save_hf(tmp_path, decoder=decoder(), eos_ids=(8,))
