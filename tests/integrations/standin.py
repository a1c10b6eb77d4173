"""Stands in for Tunix: an actor that computes as its Llama 3 does, and what it imports.

The forward pass is written for reading, with a mask and without a cache. Names and
shapes of parameters, and the arguments of calls, are those of Tunix.
"""

import abc
import dataclasses
import functools
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

THETA = 1e6
VOCAB = 22
PAD, BOS, EOS = 0, 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Has the fields of Tunix' `llama3.ModelConfig`."""

    num_layers: int = 2
    vocab_size: int = VOCAB
    embed_dim: int = 16
    hidden_dim: int = 24
    num_heads: int = 4
    head_dim: int = 8
    num_kv_heads: int = 2
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    weight_tying: bool = False


def noise(rngs: nnx.Rngs, *shape: int, size: float) -> jax.Array:
    """Returns random values without a program to compile."""
    seed = jax.random.key_data(rngs.params())
    values = np.random.default_rng(np.asarray(seed)).standard_normal(shape)
    return jax.device_put((size * values).astype(np.float32))


class Einsum(nnx.Module):
    def __init__(self, how: str, shape: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.einsum_str = how
        self.w = nnx.Param(noise(rngs, *shape, size=0.4))

    def __call__(self, x: jax.Array) -> jax.Array:
        out = jnp.einsum(self.einsum_str, x, self.w[...])
        if getattr(self, "w_lora_a", None) is None:
            return out
        how, a, b = self.w_lora_einsum_str, self.w_lora_a[...], self.w_lora_b[...]
        return out + jnp.einsum(how, x, a, b) * self.lora_scale


class Scale(nnx.Module):
    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.w = nnx.Param(1.0 + noise(rngs, config.embed_dim, size=0.3))
        self.eps = config.norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        size = jnp.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return x / size * self.w[...][None, None]


class Attention(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs) -> None:
        n, k, h, d = c.num_heads, c.num_kv_heads, c.head_dim, c.embed_dim
        self.q_proj = Einsum("BTD,DNH->BTNH", (d, n, h), rngs)
        self.k_proj = Einsum("BSD,DKH->BSKH", (d, k, h), rngs)
        self.v_proj = Einsum("BSD,DKH->BSKH", (d, k, h), rngs)
        self.o_proj = Einsum("BTNH,NHD->BTD", (n, h, d), rngs)

    def __call__(self, x: jax.Array, where: jax.Array, mask: jax.Array) -> jax.Array:
        q, k = (turned(f(x), where) for f in (self.q_proj, self.k_proj))
        v = self.v_proj(x)
        k, v = (jnp.repeat(one, q.shape[2] // one.shape[2], axis=2) for one in (k, v))
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(q.shape[-1], dtype="f4")
        scores = jnp.where(mask[:, None], scores, -1e30)
        return self.o_proj(jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores), v))


def turned(x: jax.Array, where: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    speeds = THETA ** -(np.arange(half, dtype=np.float32) / half)
    angles = where.astype(jnp.float32)[:, :, None, None] * speeds[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    one, two = x[..., :half], x[..., half:]
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


class Linear(nnx.Module):
    def __init__(self, ins: int, outs: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(noise(rngs, ins, outs, size=0.3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...]


class Mlp(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs) -> None:
        self.gate_proj = Linear(c.embed_dim, c.hidden_dim, rngs)
        self.up_proj = Linear(c.embed_dim, c.hidden_dim, rngs)
        self.down_proj = Linear(c.hidden_dim, c.embed_dim, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs) -> None:
        self.input_layernorm = Scale(c, rngs)
        self.attn = Attention(c, rngs)
        self.post_attention_layernorm = Scale(c, rngs)
        self.mlp = Mlp(c, rngs)

    def __call__(self, x: jax.Array, where: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attn(self.input_layernorm(x), where, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedder(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs) -> None:
        values = noise(rngs, c.vocab_size, c.embed_dim, size=1.0)
        self.input_embedding = nnx.Param(values)


class Llama3(nnx.Module):
    """Is called as Tunix calls its models; there are as many layers as it says."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedder = Embedder(config, rngs)
        self.layers = nnx.List([Layer(config, rngs) for _ in range(config.num_layers)])
        self.final_norm = Scale(config, rngs)
        if not config.weight_tying:
            shape = (config.embed_dim, config.vocab_size)
            self.lm_head = Einsum("BTD,DV->BTV", shape, rngs)

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, cache: None, mask: jax.Array
    ) -> tuple[jax.Array, None]:
        x = self.embedder.input_embedding[...][tokens]
        for layer in self.layers:
            x = layer(x, positions, mask)
        x = self.final_norm(x)
        if self.config.weight_tying:
            return x @ self.embedder.input_embedding[...].T, cache
        return self.lm_head(x), cache


def add_lora(actor: Any, *, alpha: float, rank: int = 2, seed: int = 3) -> None:
    """Adds pairs to all maps of attention, as qwix does."""
    rngs = nnx.Rngs(seed)
    for layer in actor.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            part = getattr(layer.attn, name)
            x, w = part.einsum_str.partition("->")[0].split(",")
            a = "".join(letter for letter in w if letter in x)
            b = "".join(letter for letter in w if letter not in x)
            sizes = dict(zip(w, part.w.shape, strict=True)) | {"r": rank}
            for half, letters in (("a", f"{a}r"), ("b", f"r{b}")):
                shape = tuple(sizes[letter] for letter in letters)
                pair = nnx.LoRAParam(noise(rngs, *shape, size=0.4))
                setattr(part, f"w_lora_{half}", pair)
            out = part.einsum_str.partition("->")[2]
            part.w_lora_einsum_str = f"{x},{a}r,r{b}->{out}"
            part.lora_scale = alpha / rank


def logps(
    actor: Any, prompt: list[int], answer: list[int], *, temperature: float = 1.0
) -> np.ndarray[Any, Any]:
    """Returns the log probability of each token of an answer, by the actor itself."""
    ids = np.array([*prompt, *answer])
    padded = np.pad(ids, (0, -len(ids) % 16))[None]  # fewer shapes to compile
    found = np.asarray(_ask(*nnx.split(actor), padded, temperature))
    rows = np.arange(len(prompt) - 1, len(ids) - 1)
    return found[rows, np.array(answer)]


@functools.partial(jax.jit, static_argnums=0)
def _ask(graphdef: Any, state: Any, ids: Any, temperature: float) -> jax.Array:
    where = jnp.arange(ids.shape[1])
    mask = where[:, None] >= where[None]
    logits, _ = nnx.merge(graphdef, state)(ids, where[None], None, mask[None])
    return jax.nn.log_softmax(logits[0] / temperature)


class Words:
    """Is a tokenizer as Tunix' `TokenizerAdapter` is: "t7 t9" is [7, 9]."""

    def encode(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"t{token}" for token in ids)

    def bos_id(self) -> int:
        return BOS

    def eos_id(self) -> int:
        return EOS

    def pad_id(self) -> int:
        return PAD


@dataclasses.dataclass(kw_only=True)
class RolloutConfig:
    """Has the fields of Tunix' that mean something here."""

    max_tokens_to_generate: int = 8
    temperature: float = 0.9
    top_p: float | None = 1.0
    top_k: int | None = None
    seed: Any = None
    max_prompt_length: int = 6
    kv_cache_size: int = 32
    data_type: Any = None
    eos_tokens: list[int] | None = None
    tensor_parallel_size: int = -1
    return_logprobs: bool = True


@dataclasses.dataclass
class RolloutOutput:
    """Has the fields of Tunix'."""

    text: list[str]
    logits: Any
    tokens: list[Any]
    left_padded_prompt_tokens: Any
    logprobs: list[Any] | None


class BaseRollout(abc.ABC):
    """Asks for what Tunix' asks for."""

    @abc.abstractmethod
    def __init__(self, **kwargs: Any) -> None: ...

    @abc.abstractmethod
    def generate(self, prompts: Any, rollout_config: Any, **kwargs: Any) -> Any: ...

    @abc.abstractmethod
    def get_per_token_logps(
        self, prompt_tokens: Any, completion_tokens: Any
    ) -> Any: ...

    @abc.abstractmethod
    def update_params(self, params: Any, filter_types: Any = None) -> None: ...

    @abc.abstractmethod
    def pad_id(self) -> int: ...

    @abc.abstractmethod
    def eos_id(self) -> int: ...

    @abc.abstractmethod
    def model(self) -> Any: ...


def install(patch: pytest.MonkeyPatch) -> None:
    """Makes `import tunix.rl.rollout.base_rollout` find what is here."""
    name = "tunix.rl.rollout.base_rollout"
    for end in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:end])
        patch.setitem(sys.modules, part, types.ModuleType(part))
    found: Any = sys.modules[name]
    found.BaseRollout, found.RolloutOutput = BaseRollout, RolloutOutput
