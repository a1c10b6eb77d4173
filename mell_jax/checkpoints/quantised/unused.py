"""Tensors of quantised checkpoints that mean nothing once their weights are dense."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

UNUSED_ENDINGS = frozenset(
    {
        # Of activations: a layer's input or output in eight bits.
        *("input_scale", "input_zero_point", "input_scale_ub", "activation_scale"),
        *("output_scale", "output_zero_point"),
        # Of the cache and of attention in eight bits.
        *("k_scale", "v_scale", "q_scale", "kv_scale", "prob_scale"),
        *("k_zero_point", "v_zero_point", "q_zero_point", "prob_output_scale"),
    }
)


def is_unused(name: str) -> bool:
    """Tells whether a stored tensor scales activations, or keys and values.

    >>> is_unused("model.layers.0.self_attn.k_scale")
    True
    """
    return name.rpartition(".")[2] in UNUSED_ENDINGS


def is_zero_bias(name: str, values: npt.NDArray[Any]) -> bool:
    """Tells whether a stored tensor is a bias of zeros, as AutoGPTQ writes one beside
    every weight, also in models that have none.
    """
    return name.endswith(".bias") and not np.any(values != 0)


def unused_line(names: Iterable[str]) -> str:
    """Returns one line that says which tensors are left out, or "" for none.

    >>> unused_line(["a.k_scale", "b.k_scale", "b.bias"])
    'left out, since they change nothing here: 1 bias, 2 k_scale'
    """
    counts = Counter(name.rpartition(".")[2] for name in names)
    listed = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    return f"left out, since they change nothing here: {listed}" if listed else ""
