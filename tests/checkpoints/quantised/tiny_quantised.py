"""The very small Llama of `tests/checkpoints/tiny.py` in each published layout.

`quantised(name)` is what a directory would hold: a key of config.json and the tensors.
Matrices of the layers are quantised; embedding, norms and head are stored as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.checkpoints import tiny
from tests.checkpoints.quantised import packing
from tests.checkpoints.quantised.packing import Arrays

GROUP = 16
PROJECTIONS = tuple(name for name in tiny.SHAPES if "_proj" in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A format as it is published."""

    config: dict[str, Any]  # the quantization_config
    pack: Callable[[np.ndarray], Arrays]  # parts of a matrix by their endings
    error: float  # of a value, at most, where the weights are of a normal distribution


def _compressed(name: str, **weights: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def _packed(bits: int, *, is_symmetric: bool) -> Published:
    weights = {"num_bits": bits, "type": "int", "symmetric": is_symmetric}
    groups = {"strategy": "group", "group_size": GROUP, "actorder": "weight"}
    return Published(
        config=_compressed("pack-quantized", **weights, **groups),
        pack=lambda dense: packing.compressed_packed(
            dense, bits=bits, group=GROUP, is_symmetric=is_symmetric
        ),
        error=0.5 if bits == 4 else 0.05,
    )


def _gptq(*, is_ordered: bool, is_v2: bool) -> Published:
    def pack(dense: np.ndarray) -> Arrays:
        order = np.arange(dense.shape[1]) // GROUP
        if is_ordered:
            order = np.random.default_rng(1).permutation(order)
        return packing.gptq(
            dense, bits=4, group=GROUP, is_symmetric=False, is_v2=is_v2, order=order
        )

    config = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": is_ordered,
        "sym": False,
        "checkpoint_format": "gptq_v2" if is_v2 else "gptq",
        "lm_head": False,
    }
    return Published(config=config, pack=pack, error=0.3)


FP8_CONFIG = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [32, 32],
    "modules_to_not_convert": ["lm_head"],
}
FORMATS: dict[str, Published] = {
    "fp8_blocks": Published(
        config=FP8_CONFIG,
        pack=lambda dense: packing.fp8_blocks(dense, block=(32, 32)),
        error=0.3,
    ),
    "fbgemm_fp8": Published(
        config={"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]},
        pack=packing.fp8_channels,
        error=0.3,
    ),
    "modelopt_fp8": Published(
        config={"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        pack=packing.fp8_tensor,
        error=0.3,
    ),
    "compressed_float8": Published(
        config=_compressed(
            "float-quantized", num_bits=8, type="float", strategy="channel"
        ),
        pack=packing.fp8_channels,
        error=0.3,
    ),
    "compressed_int8": Published(
        config=_compressed(
            "int-quantized",
            num_bits=8,
            type="int",
            strategy="group",
            group_size=GROUP,
        ),
        pack=lambda dense: packing.compressed_whole(
            dense, group=GROUP, is_symmetric=True
        ),
        error=0.05,
    ),
    "compressed_int4": _packed(4, is_symmetric=True),
    "compressed_int4_asymmetric": _packed(4, is_symmetric=False),
    "compressed_packed_int8": _packed(8, is_symmetric=True),
    "gptq": _gptq(is_ordered=False, is_v2=False),
    "gptq_ordered": _gptq(is_ordered=True, is_v2=False),
    "gptq_v2": _gptq(is_ordered=True, is_v2=True),
    "awq": Published(
        config={
            "quant_method": "awq",
            "bits": 4,
            "group_size": GROUP,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": None,
        },
        pack=lambda dense: packing.awq(dense, group=GROUP),
        error=0.3,
    ),
}


def quantised(name: str) -> tuple[dict[str, Any], Arrays]:
    """The quantization_config and the tensors of a format."""
    published = FORMATS[name]
    stored: Arrays = {}
    for tensor, values in tiny.tensors().items():
        if tensor not in PROJECTIONS:
            stored[tensor] = values
            continue
        stem = tensor.removesuffix("weight")
        parts = published.pack(values)
        stored |= {stem + ending: part for ending, part in parts.items()}
    return published.config, stored
