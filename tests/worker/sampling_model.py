"""An independent model of the sampler's rules, one row at a time, in float64."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one request asks for, in plain words."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    seed: int = 0
    position: int = 0
    prompt: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    bias: dict[int, float] = field(default_factory=dict)
    is_allow_only: bool = False
    stops: tuple[int, ...] = ()
    is_stop_barred: bool = False
    let_through: frozenset[int] | None = None  # by a mask; None lets all
    is_processed: bool = False  # log probabilities of what is drawn from


def edited_logits(logits: np.ndarray, *, wish: Wish) -> np.ndarray:
    """Logits after penalties, bias, allowed tokens and barred stop tokens."""
    values = [float(x) for x in logits]
    for token in range(len(values)):
        if token in wish.prompt or token in wish.generated:
            if values[token] > 0:
                values[token] /= wish.repetition
            else:
                values[token] *= wish.repetition
        count = wish.generated.count(token)
        values[token] -= wish.frequency * count
        if count:
            values[token] -= wish.presence
    for token, bias in wish.bias.items():
        if 0 <= token < len(values):
            values[token] += bias
    for token in range(len(values)):
        if is_barred(token, wish=wish):
            values[token] = -np.inf
    return np.array(values)


def is_barred(token: int, *, wish: Wish) -> bool:
    """Whether a token may not be sampled."""
    is_let_through = wish.let_through is None or token in wish.let_through
    is_early = wish.is_stop_barred and token in wish.stops
    is_unlisted = wish.is_allow_only and token not in wish.bias
    return is_early or is_unlisted or not is_let_through


def probabilities(logits: np.ndarray, *, wish: Wish) -> np.ndarray:
    """What the next token's distribution must be; all zero if all is barred."""
    values = edited_logits(logits, wish=wish)
    if not np.isfinite(values).any():
        return np.zeros_like(values)
    if wish.temperature < 1e-5:
        return (np.arange(len(values)) == values.argmax()).astype(np.float64)
    weights = np.exp((values - values.max()) / wish.temperature)
    weights[weights < wish.min_p] = 0.0
    if 0 < wish.top_k < len(values):
        weights[values < np.sort(values)[-wish.top_k]] = 0.0
    if wish.top_p < 1.0:
        weights[weights < nucleus_floor(weights, p=wish.top_p)] = 0.0
    return weights / weights.sum()


def nucleus_floor(weights: np.ndarray, *, p: float) -> float:
    """The smallest weight of the nucleus."""
    mass = 0.0
    for weight in np.sort(weights)[::-1]:
        mass += weight
        if mass >= p * weights.sum():
            break
    return float(weight)


def is_near_a_boundary(logits: np.ndarray, *, wish: Wish) -> bool:
    """Rounding to float32 may decide whether a token is kept."""
    if wish.temperature < 1e-5:
        best = np.sort(edited_logits(logits, wish=wish))[-2:]
        return bool(np.isfinite(best).all() and 0 < best[1] - best[0] < 1e-5)
    for nudge in (1 - 3e-5, 1 + 3e-5):
        nudged = Wish(
            **{
                **wish.__dict__,
                "top_p": min(wish.top_p * nudge, 1.0) if wish.top_p < 1.0 else 1.0,
                "min_p": min(wish.min_p * nudge, 1.0),
            }
        )
        kept = probabilities(logits, wish=wish) > 0
        if (kept != (probabilities(logits, wish=nudged) > 0)).any():
            return True
    return False
