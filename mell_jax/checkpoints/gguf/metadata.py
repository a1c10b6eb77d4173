"""Asks a GGUF file for the keys of its architecture, and remembers what was asked.

block_count  ->  gemma2.block_count
"""

from mell_jax.checkpoints.gguf.model import GgufModel
from mell_jax.checkpoints.json_file import Fields

ARCHITECTURE = "general.architecture"
_NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "tensor_data_layout": ("Meta AI original pth",),
    "use_parallel_residual": (False,),
}
"""Key -> values that change nothing."""


class Metadata:
    """The metadata are the keys of a file, those of its architecture by short names."""

    def __init__(self, model: GgufModel) -> None:
        self.model = model
        self.fields = all_fields(model)
        self._prefix = self.fields.text(ARCHITECTURE) + "."

    def key(self, name: str) -> str:
        """Returns the whole key."""
        return self._prefix + name

    def has(self, name: str) -> bool:
        """Tells whether there is a value."""
        return self.fields.has(self.key(name))

    def number(self, name: str, *, default: float | None = None) -> float:
        """Returns a finite number, whole or not."""
        return self.fields.number(self.key(name), default=default)

    def integer(self, name: str, *, default: int | None = None) -> int:
        """Returns a whole number; of a list, what all of its entries are."""
        key = self.key(name)
        if not isinstance(self.fields.values.get(key), list):
            return self.fields.integer(key, default=default)
        found = set(self.fields.integers(key))
        if len(found) != 1:
            self.fields.fail(key, "differs from layer to layer, which is not supported")
        return found.pop()

    @property
    def heads(self) -> int:
        """Returns how many heads queries have."""
        heads = self.integer("attention.head_count")
        if not (heads >= 1):
            self.fields.fail(
                self.key("attention.head_count"), f"must be positive: {heads}"
            )
        return heads

    @property
    def head_dim(self) -> int:
        """Returns the size of a head: as told, or its part of the width."""
        width = self.integer("embedding_length")
        return self.integer("attention.key_length", default=width // self.heads)

    def check_known(self) -> None:
        """Refuses what may change the arithmetic and that nobody asked for."""
        for key, value in self.fields.values.items():
            name = key.removeprefix(self._prefix)
            is_own = key.startswith(self._prefix) and key not in self.fields.asked
            if is_own and value not in _NEUTRAL.get(name, ()):
                self.fields.fail(
                    key,
                    f"is {str(value)[:60]}, which is not known here and may change "
                    "what the model computes; take the safetensors of the model",
                )


def all_fields(model: GgufModel) -> Fields:
    """Returns all keys of a file, by their whole names."""
    return Fields(dict(model.head.metadata), f"{model.path}: metadata")
