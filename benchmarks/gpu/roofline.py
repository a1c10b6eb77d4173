"""Says how fast a step could be at best: what it must read or compute, at full speed.

    seconds = max(bytes / bandwidth, operations / speed)

Bytes are those of every weight, once, and of the cached keys and values; the embedding
counts whole, though a step reads few rows of it. Speeds are the vendor's for dense
bfloat16, so that no measured ceiling hides a slow device.
"""

from dataclasses import dataclass

from mell_jax.bench.shapes import count_parameters
from mell_jax.models.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeeds:
    """The speeds are those of a data sheet."""

    bytes_per_s: float
    flops_per_s: float  # dense bfloat16


SPEEDS = (  # the first whose words are all in the device's name
    (("H200",), DeviceSpeeds(bytes_per_s=4.8e12, flops_per_s=989e12)),
    (("H100", "PCIe"), DeviceSpeeds(bytes_per_s=2.0e12, flops_per_s=756e12)),
    (("H100", "NVL"), DeviceSpeeds(bytes_per_s=3.9e12, flops_per_s=835e12)),
    (("H100",), DeviceSpeeds(bytes_per_s=3.35e12, flops_per_s=989e12)),
    (("A100", "40GB"), DeviceSpeeds(bytes_per_s=1.555e12, flops_per_s=312e12)),
    (("A100", "PCI", "80GB"), DeviceSpeeds(bytes_per_s=1.935e12, flops_per_s=312e12)),
    (("A100",), DeviceSpeeds(bytes_per_s=2.039e12, flops_per_s=312e12)),
)


def speeds_of(device_kind: str) -> DeviceSpeeds | None:
    """Returns the speeds of a device by jax's name for it, None for others.

    Args:
      device_kind: such as "NVIDIA H100 80GB HBM3".
    """
    for words, speeds in SPEEDS:
        if all(word in device_kind for word in words):
            return speeds
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A cost is what some work cannot do without."""

    bytes: float
    flops: float

    def seconds(self, speeds: DeviceSpeeds) -> float:
        """Returns the shortest time in which a device could do it."""
        return max(self.bytes / speeds.bytes_per_s, self.flops / speeds.flops_per_s)


def weight_bytes(config: ModelConfig, *, number_bytes: int = 2) -> int:
    """Returns the bytes of all weights."""
    return count_parameters(config) * number_bytes


def token_bytes(config: ModelConfig, *, number_bytes: int = 2) -> int:
    """Returns the bytes of one token's keys and values, in all layers."""
    width = config.num_kv_heads * config.head_dim
    return 2 * config.num_layers * width * number_bytes


def decode_cost(
    config: ModelConfig, *, rows: int, context: int, number_bytes: int = 2
) -> Cost:
    """Returns the cost of a token for each of `rows` that see `context` tokens.

    Operations are those of the weights; attention's are hidden by its reads.
    """
    cached = rows * context * token_bytes(config, number_bytes=number_bytes)
    return Cost(
        bytes=weight_bytes(config, number_bytes=number_bytes) + cached,
        flops=2.0 * count_parameters(config) * rows,
    )


def prefill_cost(
    config: ModelConfig, *, tokens: int, chunk: int, number_bytes: int = 2
) -> Cost:
    """Returns the cost of one prompt, `chunk` tokens a step.

    Each step reads the weights and all that was cached before it. The head computes
    one row a step; both products of causal attention count half a square.
    """
    starts = range(0, tokens, chunk)
    vocabulary = config.vocab_size * config.hidden_size
    tables = vocabulary if config.tie_embeddings else 2 * vocabulary
    seen = tokens * (tokens + 1) // 2
    widths = sum(a.num_heads * a.head_dim for a in config.attentions)
    attention = 4 * widths * seen
    steps = len(starts)
    layers = count_parameters(config) - tables
    return Cost(
        bytes=steps * weight_bytes(config, number_bytes=number_bytes)
        + sum(starts) * token_bytes(config, number_bytes=number_bytes),
        flops=2.0 * layers * tokens + 2.0 * vocabulary * steps + attention,
    )
