"""Writes `rope_goldens.json` with transformers.

python -m tests.models.make_rope_goldens
"""

import copy
import importlib
import json
from types import ModuleType
from typing import Any

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mell_jax.models.rope_scaling import LongRope
from tests.models.published_ropes import GOLDENS, PUBLISHED, Published

NUM_HEADS = 2


def reference_config(
    model_type: str, values: dict[str, Any], *, head_dim: int
) -> transformers.PreTrainedConfig:
    """The configuration that transformers makes of the values of a `config.json`."""
    return transformers.AutoConfig.for_model(
        model_type,
        hidden_size=NUM_HEADS * head_dim,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        head_dim=head_dim,
        **copy.deepcopy(values),  # it changes them
    )


def modelling(model_type: str) -> ModuleType:
    """The module of transformers that has the layers of a kind of model."""
    name = model_type.removesuffix("_text")
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def rotary_embedding(config: transformers.PreTrainedConfig) -> torch.nn.Module:
    """The module of transformers that makes cosines and sines for a model."""
    kinds = [
        kind
        for name, kind in vars(modelling(config.model_type)).items()
        if name.endswith("RotaryEmbedding")
    ]
    assert len(kinds) == 1, kinds
    made: torch.nn.Module = kinds[0](config=config)
    return made


def reference(published: Published, *, is_long: bool) -> dict[str, Any]:
    """What transformers computes for sequences within the first context or beyond."""
    config = reference_config(
        published.model_type, published.values, head_dim=published.head_dim
    )
    embedding = rotary_embedding(config)
    frequencies, gain = embedding.inv_freq, embedding.attention_scaling
    parameters = config.rope_parameters
    if parameters["rope_type"] == "longrope" and is_long:
        beyond = parameters["original_max_position_embeddings"] + 1
        frequencies, gain = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=beyond)
    return {
        "gain": float(gain),
        "frequencies": [float(f"{value:.8g}") for value in frequencies.tolist()],
    }


def all_references() -> dict[str, dict[str, Any]]:
    """All that the file holds."""
    known = {n: case for n, case in PUBLISHED.items() if case.is_known_to_transformers}
    found = {name: reference(case, is_long=True) for name, case in known.items()}
    for name, case in known.items():
        if isinstance(case.rope.scaling, LongRope):
            found[f"{name}, short"] = reference(case, is_long=False)
    return found


if __name__ == "__main__":
    lines = (
        f"{json.dumps(name)}: {json.dumps(golden)}"
        for name, golden in all_references().items()
    )
    GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
