"""The decoder of a model that sees, under the names that old and new files give it."""

import importlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.parity.test_live_transformers import our_logits
from tests.parity.tiny_models import families, load_golden, weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed"
)
make_goldens = importlib.import_module("tests.parity.make_goldens")

VISION = {
    "hidden_size": 16,
    "image_size": 28,
    "intermediate_size": 24,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 14,
    "vision_use_head": False,
}
OLDER = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def config_of(family):
    """Its `config.json` as files of models that see have it."""
    text = {**family.config}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "dtype": text.pop("dtype"),
        "eos_token_id": text.pop("eos_token_id"),
        "text_config": {k: v for k, v in text.items() if k != "architectures"},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 255,
    }


def tensors_of(family, config):
    """Those of `family` within a whole model, by the names of transformers 5."""
    whole = transformers.AutoConfig.for_model(**config)
    model = transformers.Gemma3ForConditionalGeneration(whole)
    tensors = {
        name: np.ascontiguousarray(tensor.numpy())
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    text = {
        f"model.language_model.{name.removeprefix('model.')}": tensor
        for name, tensor in weights(family).items()
    }
    assert text.keys() <= tensors.keys()
    return {**tensors, **text}


def older_name(name):
    for newer, older in OLDER.items():
        if name.startswith(newer):
            return older + name.removeprefix(newer).removeprefix("vision_model.")
    return name


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("spelling", ["older", "newer"])
def test_the_decoder_of_a_model_that_sees_is_the_one_that_it_is_alone(
    tmp_path, spelling
):
    family, golden = families()["gemma3"], load_golden("gemma3")
    config = config_of(family)
    tensors = tensors_of(family, config)
    if spelling == "older":
        tensors = {older_name(name): tensor for name, tensor in tensors.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = np.concatenate([golden.prompt, golden.decoded])
    expected = np.concatenate([golden.prefill_logits, golden.decode_logits])
    reference = make_goldens.load_reference(tmp_path)  # which knows all of the names
    with torch.no_grad():
        known = reference(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()
    _, found = our_logits(tmp_path, ids)
    near = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(known, expected, atol=near)
    np.testing.assert_allclose(found, expected, atol=near)
