"""A model's shape is what costs memory and time: weights, KV per token, arithmetic."""

from dataclasses import dataclass

NUMBER_BYTES = 2  # weights and KV are bfloat16 on an accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One model, as far as a planner has to know it; counts are of the whole model.

    Attributes:
      embedding: parameters that a step looks up and does not multiply by; 0 where the
        head uses the same.
      head: parameters of which only rows that want a token need the product.
      windows: of each layer, in tokens; None sees everything.
      attention_width: query channels of each layer, all heads together.
      mlp_sizes: widths of the feed-forward parts, without repetition.
    """

    name: str
    parameters: int
    embedding: int
    head: int
    hidden_size: int
    context_tokens: int
    num_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    attention_width: tuple[int, ...]
    num_heads: tuple[int, ...]  # without repetition
    mlp_sizes: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def weight_bytes(self) -> int:
        """Returns the memory of all weights."""
        return self.parameters * NUMBER_BYTES

    @property
    def read_bytes(self) -> int:
        """Returns what a step reads of the weights."""
        return (self.parameters - self.embedding) * NUMBER_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """Returns the KV cache of a token in all layers."""
        width = self.num_kv_heads * self.head_dim
        return self.num_layers * 2 * width * NUMBER_BYTES

    def can_be_cut(self, devices: int) -> bool:
        """Tells whether the engine can lay an instance on so many devices."""
        cuts = (*self.num_heads, *self.mlp_sizes)
        is_even = all(size % devices == 0 for size in cuts)
        heads = self.num_kv_heads
        return is_even and (heads % devices == 0 or devices % heads == 0)

    def kv_copies(self, devices: int) -> int:
        """Returns how often an instance on so many devices holds each KV head."""
        return max(1, devices // self.num_kv_heads)
