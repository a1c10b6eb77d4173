"""Other programs' arithmetic in NumPy, on their own leaves, without any of our code.

A program's test takes its leaves apart into `Layer`s as that program multiplies by
them: nothing is turned, reordered or scaled here that is not so there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's weights; the norms are what is multiplied by."""

    q: Array  # [D, N, H]
    k: Array  # [D, K, H]
    v: Array  # [D, K, H]
    out: Array  # [N, H, D]
    gate: Array  # [D, F]
    up: Array  # [D, F]
    down: Array  # [F, D]
    norms: dict[str, Array]  # before or after the "attention" or the "mlp"
    biases: dict[str, Array] = field(default_factory=dict)  # "q", "k", "v": [N, H]
    head_norms: dict[str, Array] = field(default_factory=dict)  # "q", "k": [H]
    window: int | None = None
    frequencies: Array | None = None  # None for those of the program


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a program computes with them."""

    frequencies: Array  # [H/2], radians per token
    is_interleaved: bool = False
    score_scale: float = 1.0  # what the program itself multiplies scores by
    embedding_multiplier: float = 1.0  # what it multiplies by what it looks up
    soft_cap: float | None = None  # of scores
    last_soft_cap: float | None = None  # of logits
    eps: float = 1e-5
    act: Callable[[Array], Array]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def logits(
    program: Program,
    tokens: list[int],
    *,
    embedding: Array,
    layers: list[Layer],
    last_norm: Array,
    head: Array,  # [D, V]
) -> Array:
    x = embedding[tokens].astype(np.float64) * program.embedding_multiplier
    for layer in layers:
        x = x + _after(program, layer, "attention", _attention(program, layer, x))
        n = _norm(program, x, layer.norms["before mlp"])
        fed = (program.act(n @ layer.gate) * (n @ layer.up)) @ layer.down
        x = x + _after(program, layer, "mlp", fed)
    return _capped(_norm(program, x, last_norm) @ head, program.last_soft_cap)


def _after(program: Program, layer: Layer, part: str, x: Array) -> Array:
    scale = layer.norms.get(f"after {part}")
    return x if scale is None else _norm(program, x, scale)


def _attention(program: Program, layer: Layer, x: Array) -> Array:
    n = _norm(program, x, layer.norms["before attention"])
    q, k, v = (np.einsum("td,dnh->tnh", n, w) for w in (layer.q, layer.k, layer.v))
    q, k, v = (
        one + layer.biases.get(kind, 0.0)
        for kind, one in zip("qkv", (q, k, v), strict=True)
    )
    if layer.head_norms:
        q = _norm(program, q, layer.head_norms["q"])
        k = _norm(program, k, layer.head_norms["k"])
    q, k = _rotate(program, layer, q), _rotate(program, layer, k)
    repeat = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, repeat, axis=1), np.repeat(v, repeat, axis=1)
    scores = np.einsum("tnh,snh->nts", q, k) * program.score_scale
    scores = _capped(scores, program.soft_cap)
    distance = np.arange(len(x))[:, None] - np.arange(len(x))[None]
    is_seen = (distance >= 0) & (distance < (layer.window or len(x)))
    weights = np.where(is_seen, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("nts,snh,nhd->td", weights, v, layer.out)


def _rotate(program: Program, layer: Layer, x: Array) -> Array:  # [T, N, H]
    own = layer.frequencies
    turns = program.frequencies if own is None else own
    angle = np.arange(len(x))[:, None] * turns
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned = np.empty_like(x)
    half = x.shape[-1] // 2
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if program.is_interleaved
        else (slice(0, half), slice(half, None))
    )
    turned[..., first] = x[..., first] * cos - x[..., second] * sin
    turned[..., second] = x[..., second] * cos + x[..., first] * sin
    return turned


def _norm(program: Program, x: Array, scale: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + program.eps) * scale


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)
