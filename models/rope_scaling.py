"""Stretches rotary frequencies, so that a model reaches beyond its first context.

Each way is a frozen value with two answers: `stretch` returns the frequencies of a
head's pairs of channels, `gain` what cosines and sines are multiplied by:

    pair      0     1     2   ...  R/2-1
    plain     1   .1    .01        short waves first, long waves last
    yarn      1   .1    .005       only the long ones are stretched

`rope.py` asks them; which value a model has is read by `mell_jax.checkpoints`.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

MAX_CONTEXT = 1 << 30
"""No context is longer than this, in tokens."""
MAX_FACTOR = 1 << 20
"""No wave is stretched further than this."""

Frequencies = npt.NDArray[np.float64]  # [R/2], radians per token, short waves first


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRope:
    """Stretches every wave by `factor`, as if positions lay closer (arXiv 2306.15595).

    Raises:
      ValueError: `factor` is out of range.
    """

    factor: float
    gain: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def stretch(self, frequency: Frequencies, *, theta: float) -> Frequencies:
        """Returns all frequencies divided by `factor`."""
        del theta
        return frequency / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRope:
    """Changes nothing within the context that the model was made for ("dynamic NTK").

    Its base grows with a sequence that is longer than `max_position_embeddings`. Keys
    in the cache would have to be turned again for it, so no such sequence is served,
    and `factor` is kept only to be written back.

    Raises:
      ValueError: `factor` is out of range.
    """

    factor: float
    gain: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def stretch(self, frequency: Frequencies, *, theta: float) -> Frequencies:
        """Returns the frequencies as they are."""
        del theta
        return frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Stretches the rotary embedding by frequency, as in Llama 3.1 (arXiv 2407.21783).

    Wavelengths above `original_context / low_freq_factor` are stretched by `factor`,
    those below `original_context / high_freq_factor` are kept, between them the
    stretch is interpolated linearly in the frequency.

    Raises:
      ValueError: a value is out of range.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int  # tokens
    gain: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not (0.0 < self.low_freq_factor < self.high_freq_factor):
            raise ValueError(
                "rope needs 0 < low_freq_factor < high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )
        _check_context(self.original_context)

    def stretch(self, frequency: Frequencies, *, theta: float) -> Frequencies:
        """Returns the frequencies with long waves stretched."""
        del theta
        turns = self.original_context * frequency / (2 * np.pi)  # turns per context
        keep = (turns - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        keep = np.clip(keep, 0.0, 1.0)  # 1: short waves stay, 0: long ones stretch
        return (1.0 - keep) * frequency / self.factor + keep * frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnRope:
    """Stretches by the turns that a pair makes in the first context (arXiv 2309.00071).

    Pairs that turn more than `beta_fast` times in `original_context` are kept, those
    that turn less than `beta_slow` times are stretched by `factor`, between them the
    stretch is interpolated linearly in the pair's index. Cosines and sines grow by
    `attention_factor`; where it is None, by 0.1 ln(factor) + 1, or by the quotient of
    two such terms with `mscale` and `mscale_all_dim` before the logarithm, if both are
    there and not zero.

    Raises:
      ValueError: a value is out of range.
    """

    factor: float
    original_context: int  # tokens
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    is_truncated: bool = True
    """The range that is interpolated begins and ends at whole pairs."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_context(self.original_context)
        if not (0.0 < self.beta_slow < self.beta_fast):
            raise ValueError(
                "rope needs 0 < beta_slow < beta_fast, got "
                f"{self.beta_slow} and {self.beta_fast}"
            )
        _check_attention_factor(self.attention_factor)
        scales = {"mscale": self.mscale, "mscale_all_dim": self.mscale_all_dim}
        for name, value in scales.items():
            if value is not None and not (value >= 0.0):
                raise ValueError(f"rope {name} must not be negative, got {value}")

    @property
    def gain(self) -> float:
        """Returns what cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        return self._growth(1.0)

    def stretch(self, frequency: Frequencies, *, theta: float) -> Frequencies:
        """Returns the frequencies with long waves stretched; `theta` is their base."""
        dims = 2 * len(frequency)
        first = self._pair_with(self.beta_fast, dims=dims, theta=theta)
        last = self._pair_with(self.beta_slow, dims=dims, theta=theta)
        if self.is_truncated:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, dims - 1.0)
        if first == last:
            last += 0.001  # a step in place of a ramp
        index = np.arange(dims // 2, dtype=np.float64)
        ramp = np.clip((index - first) / (last - first), 0.0, 1.0)
        return (1.0 - ramp) * frequency + ramp * frequency / self.factor

    def _pair_with(self, turns: float, *, dims: int, theta: float) -> float:
        """The index, not whole, of a pair that turns so often in the first context."""
        wavelength = self.original_context / turns  # tokens
        return dims * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    def _growth(self, scale: float) -> float:
        return 0.1 * scale * math.log(self.factor) + 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope:
    """Stretches each pair by a factor of its own, found by a search (arXiv 2402.13753).

    A model has two lists, for sequences within `original_context` and for longer ones.
    Keys that are in the cache cannot change any more when a sequence grows beyond it,
    so one server uses one list: `for_context` chooses by the longest context that is
    served. (vLLM does so as well; transformers changes in the middle of a sequence.)

    Raises:
      ValueError: a value is out of range, or the lists are not of one length.
    """

    short_factor: tuple[float, ...]  # [R/2]
    long_factor: tuple[float, ...]  # [R/2]
    original_context: int  # tokens
    factor: float = 1.0
    """The longest context over the original one, from which the gain follows."""
    attention_factor: float | None = None
    is_long: bool = False
    """Whether `long_factor` is used, set by `for_context`."""

    def __post_init__(self) -> None:
        if not self.short_factor or len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                "rope needs short_factor and long_factor of one length, got "
                f"{len(self.short_factor)} and {len(self.long_factor)} numbers"
            )
        for factor in (*self.short_factor, *self.long_factor):
            if not (factor > 0.0):
                raise ValueError(
                    "rope short_factor and long_factor must be positive, "
                    f"got {factor} among them"
                )
        _check_context(self.original_context)
        if not (0.0 < self.factor <= MAX_FACTOR):
            raise ValueError(
                f"rope factor must be above 0 and at most {MAX_FACTOR}, "
                f"got {self.factor}"
            )
        _check_attention_factor(self.attention_factor)

    def for_context(self, tokens: int) -> Self:
        """Returns the same for a server whose longest context has so many tokens."""
        return replace(self, is_long=tokens > self.original_context)

    @property
    def gain(self) -> float:
        """Returns what cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.original_context))

    def stretch(self, frequency: Frequencies, *, theta: float) -> Frequencies:
        """Returns the frequencies divided by the list that is used."""
        del theta
        factors = self.long_factor if self.is_long else self.short_factor
        return frequency / np.asarray(factors, np.float64)


RopeScaling = LinearRope | DynamicRope | Llama3Rope | YarnRope | LongRope


def _check_factor(factor: float) -> None:
    if not (1.0 <= factor <= MAX_FACTOR):
        raise ValueError(
            f"rope factor must be at least 1 and at most {MAX_FACTOR}, got {factor}"
        )


def _check_context(tokens: int) -> None:
    if not (2 <= tokens <= MAX_CONTEXT):  # the logarithm of 1 is 0
        raise ValueError(
            f"rope original_context must be from 2 to {MAX_CONTEXT}, got {tokens}"
        )


def _check_attention_factor(factor: float | None) -> None:
    if factor is not None and not (factor > 0.0):
        raise ValueError(f"rope attention_factor must be positive, got {factor}")
