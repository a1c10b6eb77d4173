"""The cases of `goldens/`: how each was quantised, as its config.json would say.

A golden is a safetensors file: the parts of one weight under their published names, and
"dense", what the reference implementation makes of them.
"""

from pathlib import Path
from typing import Any

GOLDENS = Path(__file__).parent / "goldens"
MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = f"{MODULE}.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"
DENSE = "dense"

Config = dict[str, Any]


def _gptq(bits: int, **options: Any) -> Config:
    return {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": 16,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
        **options,
    }


def _compressed(name: str, **weights: Any) -> Config:
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", **weights},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _packed(bits: int, **weights: Any) -> Config:
    return _compressed("pack-quantized", num_bits=bits, **weights)


GROUPS = {"strategy": "group", "group_size": 16}
BLOCKS = {"strategy": "block", "block_structure": [16, 32]}

CASES: dict[str, Config] = {
    "gptq_4": _gptq(4),
    "gptq_2": _gptq(2, sym=False),
    "gptq_8": _gptq(8, sym=False),
    "gptq_4_asymmetric": _gptq(4, sym=False),
    "gptq_4_ordered": _gptq(4, sym=False, desc_act=True),
    "gptq_4_one_group": _gptq(4, group_size=-1),
    "gptq_v2_4": _gptq(4, sym=False, checkpoint_format="gptq_v2"),
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
    "packed_4": _packed(4, symmetric=True, **GROUPS),
    "packed_4_asymmetric": _packed(4, symmetric=False, **GROUPS),
    "packed_2": _packed(2, symmetric=False, **GROUPS),
    "packed_8_channel": _packed(8, symmetric=True, strategy="channel"),
    "packed_8_channel_asymmetric": _packed(8, symmetric=False, strategy="channel"),
    "int8_channel": _compressed("int-quantized", symmetric=True, strategy="channel"),
    "int8_tensor": _compressed("int-quantized", symmetric=False, strategy="tensor"),
    "int8_group": _compressed("naive-quantized", symmetric=False, **GROUPS),
    "float8_tensor": _compressed("float-quantized", type="float", strategy="tensor"),
    "float8_channel": _compressed("float-quantized", type="float", strategy="channel"),
    "float8_block": _compressed("float-quantized", type="float", **BLOCKS),
    "fp8_block": {"quant_method": "fp8", "weight_block_size": [16, 32]},
    "fp8_block_ue8m0": {
        "quant_method": "fp8",
        "weight_block_size": [16, 32],
        "scale_fmt": "ue8m0",
    },
    "mxfp4": {"quant_method": "mxfp4"},
}
