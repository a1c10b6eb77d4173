"""The prompts and parameters that a caller of the library gives take one form here."""

from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, cast

import jax
import numpy as np
import numpy.typing as npt

from mell_jax.engine.params import SamplingParams

Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]]
"""A text, or token ids: a list, a tuple, or an array of NumPy or JAX."""
Prompts = Prompt | Iterable[Prompt]


def as_prompts(prompts: Prompts) -> list[str | Sequence[int]]:
    """Returns many prompts; a text and a row of ids are one."""
    if isinstance(prompts, str) or _dimensions(prompts) == 1:
        return [as_prompt(cast("Prompt", prompts))]
    many: list[Any] = list(prompts)
    if many and isinstance(many[0], SupportsIndex) and not _dimensions(many[0]):
        return [as_prompt(many)]
    return [as_prompt(prompt) for prompt in many]


def as_prompt(prompt: Prompt) -> str | Sequence[int]:
    """Returns arrays, and other rows of ids, as a list of ids."""
    if isinstance(prompt, str | list | tuple):
        return prompt
    ids = np.asarray(prompt if _dimensions(prompt) else list(prompt))
    return cast("list[int]", ids.tolist())


def _dimensions(value: object) -> int:
    """How many dimensions an array has; 0 for what is none."""
    return value.ndim if isinstance(value, np.ndarray | jax.Array) else 0


def as_params(
    params: SamplingParams | Sequence[SamplingParams], *, count: int
) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise ValueError(f"{count} prompts need as many params, got {len(params)}")
    return list(params)
