"""Maps the parameters of an actor to those of the `Decoder` that is served for it.

    layers.0.attn.q_proj.w          [D, N, H]   of the actor
    layers.0.attn.q_proj.w_lora_a   [D, r]      added to it: a @ b * alpha / r
    layers.0.attn.q_proj.w_lora_b   [r, N, H]
      ->  layers.0.attention.q_proj.kernel  [D, N * H]

Stacked layers of a scan are taken apart, and KV heads are repeated where the served
model has more of them. All of it is compiled and done on the actor's devices.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast, final

import jax
import numpy as np
from flax import nnx

from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.families.family import ParameterPath
from mell_jax.checkpoints.sources import Reader, Reshape, Source, Stack, Transpose
from mell_jax.checkpoints.traced_sources import trace_source
from mell_jax.checkpoints.trees import TREES, TreeLayout
from mell_jax.integrations.tunix.lora import Adapters
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder

Arrays = Mapping[str, jax.Array]
_ROOTS = ("", "base.", "model.", "transformer.")
"""Where adapters keep the model that they are around; MaxText's is `base`."""


@final
class WeightMap:
    """A map knows the names of one actor.

    Args:
      actor: an `nnx.Module` of Tunix or MaxText, with parameters of LoRA or without.
      config: of the decoder that is served.
      lora_alpha: pairs of LoRA are multiplied by it and divided by their rank.

    Raises:
      ValueError: its parameters have names that are not known or are not those of
        `config`, or there is LoRA and no alpha.
    """

    def __init__(
        self, actor: Any, *, config: ModelConfig, lora_alpha: float | None = None
    ) -> None:
        arrays = read_arrays(nnx.state(actor))
        self._adapters = Adapters.of(actor, arrays, alpha=lora_alpha)
        self._actor = actor if self._adapters is not None else None
        self._root, self._layout = _find_layout(arrays, name=type(actor).__name__)
        self.config = config
        here = self._below(arrays)
        heads = getattr(getattr(actor, "config", None), "num_kv_heads", None)
        self._sources = _sources(self._layout, here, config=config, kv_heads=heads)
        self._check(here)

    @property
    def mapping(self) -> Mapping[str, Source]:
        """Returns what `LLM.update_weights` is told of the arrays of `arrays_of`."""
        return {".".join(map(str, path)): one for path, one in self._sources.items()}

    def arrays_of(self, params: Any) -> dict[str, jax.Array]:
        """Returns arrays by name, LoRA merged.

        Args:
          params: an `nnx.State` of the actor, all of it or LoRA's part alone.
        """
        arrays = read_arrays(params)
        if self._adapters is not None:
            arrays = self._adapters.merge(read_arrays(nnx.state(self._actor)) | arrays)
        return self._below(arrays)

    def parameters(self, params: Any, *, dtype: Any) -> dict[ParameterPath, jax.Array]:
        """Returns the decoder's own parameters, made where the actor's are."""
        arrays = self.arrays_of(params)

        @jax.jit
        def make(arrays: Arrays) -> list[jax.Array]:
            sources = self._sources.values()
            return [trace_source(one, arrays, dtype=dtype) for one in sources]

        return dict(zip(self._sources, make(arrays), strict=True))

    def _below(self, arrays: Arrays) -> dict[str, jax.Array]:
        return {
            name.removeprefix(self._root): array
            for name, array in arrays.items()
            if name.startswith(self._root)
            and not name.removeprefix(self._root).startswith(self._layout.ignored)
            and "_lora_" not in name
        }

    def _check(self, arrays: Arrays) -> None:
        reader = cast("Reader", _Shapes(arrays))
        model = abstract_decoder(self.config, dtype=np.float32)
        for path, _ in model.items():
            made, wanted = self._sources[path].shape(reader), model.shape(path)
            if made != wanted:
                theirs = [
                    f"{name} {list(arrays[name].shape)}"
                    for name in self._sources[path].names()
                ]
                raise ValueError(
                    f"{'.'.join(map(str, path))} of shape {list(wanted)} cannot be "
                    f"made of {self._layout.program}'s {', '.join(theirs)}: the config "
                    "is another model's"
                )
        used = {name for one in self._sources.values() for name in one.names()}
        if extra := sorted(arrays.keys() - used):
            raise ValueError(
                f"{len(extra)} arrays of {self._layout.program} have no place in the "
                f"served model, such as {extra[0]}: the config is another model's"
            )


def make_decoder(
    config: ModelConfig, arrays: Mapping[ParameterPath, jax.Array], *, dtype: Any
) -> Decoder:
    """Returns a decoder that has these very arrays."""
    model = abstract_decoder(config, dtype=dtype)
    return nnx.merge(model.graphdef, model.state(arrays))


def read_arrays(params: Any) -> dict[str, jax.Array]:
    """Returns the parameters of an `nnx.State` by name: "layers.0.attn.q_proj.w".

    Raises:
      ValueError: one is no plain array, such as a quantised one.
    """
    found = {}
    for path, leaf in nnx.to_flat_state(params):
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.Param):
            continue
        value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        name = ".".join(map(str, path))
        if not isinstance(value, jax.Array):
            raise ValueError(
                f"{name} is a {type(value).__name__}: only plain arrays are served, "
                "train without quantisation"
            )
        found[name] = value
    return found


class _Shapes:
    """Knows shapes alone, for the sources that ask."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def shape(self, name: str, /) -> tuple[int, ...]:
        if name not in self._arrays:
            raise ValueError(
                f"the actor has no parameter {name}: the config is another model's"
            )
        return tuple(self._arrays[name].shape)


def _find_layout(arrays: Arrays, *, name: str) -> tuple[str, TreeLayout]:
    for root in _ROOTS:
        below = {n.removeprefix(root): () for n in arrays if n.startswith(root)}
        for layout in TREES:
            if layout.is_like(below):
                return root, layout
    known = ", ".join(layout.program for layout in TREES)
    some = ", ".join(sorted(arrays)[:3])
    raise ValueError(
        f"the parameters of {name} have names that are not known here: {some}. Those "
        f"of {known} are"
    )


def _sources(
    layout: TreeLayout, arrays: Arrays, *, config: ModelConfig, kv_heads: int | None
) -> Mapping[ParameterPath, Source]:
    """Says what each parameter is made of.

    Args:
      kv_heads: of the actor, None for as many as the served model has.
    """
    from_heads = config.num_kv_heads if kv_heads is None else kv_heads
    times, rest = divmod(config.num_kv_heads, from_heads)
    if rest or times == 0:
        raise ValueError(
            f"the served model's num_kv_heads ({config.num_kv_heads}) must be a "
            f"multiple of the actor's ({from_heads})"
        )
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    sources = dict(layout.sources(_with_kv_heads(config, from_heads), shapes))
    if times > 1:
        for path, source in sources.items():
            if {"k_proj", "v_proj"} & set(path):
                sources[path] = _repeated(
                    source, path, config, heads=from_heads, times=times
                )
    return sources


def _with_kv_heads(config: ModelConfig, heads: int) -> ModelConfig:
    layers = tuple(
        replace(layer, attention=replace(layer.attention, num_kv_heads=heads))
        for layer in config.layers
    )
    return replace(config, layers=layers)


def _repeated(
    source: Source,
    path: ParameterPath,
    config: ModelConfig,
    *,
    heads: int,
    times: int,
) -> Source:
    """Repeats each head: [..., K * H] -> [..., K, H] -> [..., K * times * H]."""
    size = config.head_dim
    width = () if path[-1] == "bias" else (config.hidden_size,)
    apart = Reshape(source, (*width, heads, size), (*width, heads * size))
    axes = (*range(1, len(width) + 2), 0, len(width) + 2)
    turned = Transpose(Stack((apart,) * times), axes)
    wanted = (*width, heads * times * size)
    return Reshape(turned, wanted, (*width, heads, times, size))
