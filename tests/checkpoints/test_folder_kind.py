"""What a folder is that cannot be served, told by the names in it."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mell_jax.checkpoints import CheckpointError, load_model, read_spec
from mell_jax.checkpoints.folder_kind import explain_folder, explain_path
from mell_jax.checkpoints.quantization_marks import find_quantization
from tests.checkpoints.tiny import (
    LAYER,
    arrays,
    on_one_device,
    tensors,
    write_config,
    write_model,
)

LAYOUTS = {  # the files of each, what it is said to be, and a word of the way out
    "meta": (
        ["consolidated.00.pth", "consolidated.01.pth", "params.json"],
        "Meta's original layout, which is pickled (consolidated.00.pth, params.json)",
        "convert_llama_weights_to_hf",
    ),
    "mistral": (
        ["consolidated.safetensors", "params.json", "tekken.json"],
        "Mistral's own layout (consolidated.safetensors, params.json)",
        "convert_mistral_weights_to_hf",
    ),
    "lora": (
        ["adapter_config.json", "adapter_model.safetensors"],
        "an adapter (LoRA) without its base model (adapter_config.json)",
        "merge_and_unload",
    ),
    "mlx": (["weights.00.npz"], "an MLX model in NumPy's format", "safetensors"),
    "onnx": (["model.onnx", "model.onnx_data"], "ONNX (model.onnx)", "safetensors"),
    "onnx in a folder": (["onnx/model.onnx"], "ONNX (onnx/model.onnx)", "safetensors"),
    "flax": (["flax_model.msgpack"], "a checkpoint of Flax in msgpack", "from_flax"),
    "tensorflow": (["tf_model.h5"], "a checkpoint of TensorFlow", "from_tf"),
    "diffusers": (
        ["model_index.json", "unet/config.json"],
        "an image pipeline of Diffusers (model_index.json)",
        "language models alone",
    ),
    "cache": (
        ["refs/main", "snapshots/1f/config.json", "snapshots/1f/model.safetensors"],
        "a folder of Hugging Face's cache (snapshots/1f/config.json)",
        "one of the folders in its snapshots",
    ),
    **{
        f"pickled {name}": ([name], f"only pickled weights, which can run code and are "
        f"never read ({name})", "safe_serialization=True")
        for name in ("pytorch_model.bin", "model.pt", "a.pth", "b.pkl", "c.ckpt")
    },
}  # fmt: skip


def write(directory, names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")


def load(directory):
    return load_model(directory, dtype=jnp.float32, sharding_for=on_one_device)


@pytest.mark.parametrize("has_config", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_told_by_what_lies_in_it(tmp_path, layout, has_config):
    names, what, way_out = LAYOUTS[layout]
    write(tmp_path, names)
    if has_config:
        write_config(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert what in str(error.value)
    assert way_out in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["_METADATA", "state/_METADATA", "0/default/_METADATA", "10/items/_METADATA"],
)
def test_an_orbax_checkpoint_without_a_config_is_told(tmp_path, name):
    write(tmp_path, [name])
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    told = f"{tmp_path}: an Orbax checkpoint without config.json ({name})"
    assert str(error.value).startswith(told)
    assert "config=ModelConfig(...)" in str(error.value)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"lora"}))
def test_what_lies_beside_a_whole_model_is_in_nobody_s_way(tmp_path, layout):
    write(tmp_path, LAYOUTS[layout][0])
    assert len(arrays(load(write_model(tmp_path)).state)) == 12


@pytest.mark.parametrize(
    "names", [[], ["README.md"], ["params.json"], ["consolidated.00.pth.index"]]
)
def test_a_folder_that_tells_nothing_is_told_by_what_is_missing(tmp_path, names):
    write(tmp_path, names)
    assert explain_folder(tmp_path) == ""
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load(tmp_path)
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights: .* found .*config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "base", ["model.safetensors", "model.safetensors.index.json", "orbax/_METADATA"]
)
def test_an_adapter_beside_a_base_model_is_refused(tmp_path, base):
    write(tmp_path, [base, "adapter_config.json", "adapter_model.safetensors"])
    write_config(tmp_path)
    with pytest.raises(CheckpointError) as error:
        read_spec(tmp_path)
    assert str(tmp_path / "adapter_config.json") in str(error.value)
    assert "beside a whole model, and adapters are not applied" in str(error.value)
    assert "move the adapter's files away" in str(error.value)


def test_a_path_that_is_no_directory_is_told(tmp_path):
    write(tmp_path, ["model.safetensors"])
    told = explain_path(tmp_path / "model.safetensors")
    assert told.startswith("a file; a model is the directory that has it")
    hub_id = type(tmp_path)("Qwen/Qwen3-0.6B")
    assert explain_path(hub_id).startswith("no such directory or file; a model")
    assert "hf download Qwen/Qwen3-0.6B --local-dir" in explain_path(hub_id)
    assert "hf download" not in explain_path(tmp_path / "nowhere")
    assert "hf download" not in explain_path(type(tmp_path)("../models/a"))


PROJECTION = LAYER + "self_attn.k_proj"
QUANTIZED = {  # what stands in the place of PROJECTION.weight
    "GPTQ": ("qweight", "qzeros", "scales", "g_idx"),
    "AWQ": ("qweight", "qzeros", "scales"),
    "compressed-tensors, packed": ("weight_packed", "weight_scale", "weight_shape"),
    "FP8 with scales of blocks": ("weight", "weight_scale_inv"),
    "FP8 or int8 with scales": ("weight", "weight_scale", "input_scale"),
    "bitsandbytes": ("weight", "weight.absmax", "weight.quant_map"),
    "bitsandbytes, int8": ("weight", "SCB"),
    "MLX": ("weight", "scales", "biases"),
    "MXFP4": ("weight_blocks", "weight_scales"),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantised_weights_are_told_by_their_tensors(tmp_path, kind):
    stored = tensors()
    del stored[PROJECTION + ".weight"]
    for name in QUANTIZED[kind]:
        stored[f"{PROJECTION}.{name}"] = np.ones(4, np.uint8)
    save_file(stored, tmp_path / "model.safetensors")
    write_config(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert f"these weights are quantised ({kind}), but no file" in str(error.value)
    assert PROJECTION in str(error.value)


def test_scales_of_the_kv_cache_quantise_no_weights():
    assert find_quantization([PROJECTION + ".k_scale", PROJECTION + ".weight"]) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quantization_config", {"group_size": 64, "bits": 4}, "found mlx; make it"),
        ("quantization", {"group_size": 64, "bits": 4}, "found mlx; make it dense"),
        ("quantization_config", {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ("quantization_config", {"quant_method": 5}, "quant_method must be a string"),
        ("quantization_config", {"quant_method": "gptq"}, "bits is missing"),
        ("quantization_config", "fp8", "must be an object, found a string"),
    ],
)
def test_a_precision_that_is_not_read_is_told(tmp_path, key, value, message):
    write_config(tmp_path, **{key: value})
    with pytest.raises(CheckpointError) as error:
        read_spec(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": None}, 'is missing; by model_type (llama) it is "arch'),
        ({"architectures": []}, '"architectures": ["LlamaForCausalLM"]'),
        ({"architectures": None, "model_type": None}, "is missing; it must name one"),
        ({"architectures": None, "model_type": "x"}, "is missing; it must name one"),
        (
            {"architectures": ["LLaMAForCausalLM"]},
            "'LLaMAForCausalLM' is an older spelling: write LlamaForCausalLM",
        ),
        (
            {"architectures": ["LlamaModel"]},
            "is 'LlamaModel', a model that makes no tokens: it was saved without a",
        ),
        (
            {
                "architectures": ["Qwen2ForSequenceClassification"],
                "model_type": "qwen2",
            },
            "take the checkpoint that is Qwen2ForCausalLM",
        ),
        (
            {"architectures": ["BertModel"], "model_type": "bert"},
            "must name one of LlamaForCausalLM",
        ),
        (
            {"architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"]},
            "found ['LlamaForCausalLM', 'Qwen2ForCausalLM']",
        ),
    ],
)
def test_architectures_that_are_not_served_are_told_with_the_way_out(
    tmp_path, changes, words
):
    write_config(tmp_path, **changes)
    with pytest.raises(CheckpointError) as error:
        read_spec(tmp_path)
    assert f"{tmp_path / 'config.json'}: architectures " in str(error.value)
    assert words in str(error.value)
