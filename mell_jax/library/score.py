"""Given tokens are scored as prompts whose log probabilities are asked for.

    prompt [5 6], completion [7 8]  ->  prompt [5 6 7], then 8  ->  those of 7 and 8

What is to follow the prompt is scored with it, so that nothing of a completion that
ends with the context is left out.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import EngineInfo
from mell_jax.engine.params import (
    MIN_TEMPERATURE,
    InvalidRequestError,
    SamplingParams,
)
from mell_jax.frontend import RequestFailedError

TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The tokens of a pair, as a prompt and the one token that follows it."""

    prompt: list[int]
    following: int


class Scored(Protocol):
    """One token of a prompt, and how likely it was."""

    @property
    def logprob(self) -> float: ...


def given_in(
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    *,
    info: EngineInfo,
) -> list[Given]:
    """Returns the tokens of each pair whose completion is not empty.

    Raises:
      InvalidRequestError: what cannot be scored; names the pair.
    """
    if len(prompts) != len(completions):
        raise InvalidRequestError(
            "completions",
            f"must be one for each of {len(prompts)} prompts, got {len(completions)}",
        )
    found = []
    for number, (prompt, completion) in enumerate(
        zip(prompts, completions, strict=True)
    ):
        before = _ids(prompt, name="prompts", number=number)
        given = _ids(completion, name="completions", number=number)
        if not given:
            continue
        if not before:
            raise InvalidRequestError(
                "prompts",
                f"must hold a token each: nothing is before the first token of number "
                f"{number}, so that it has no probability; give the token that begins "
                "texts",
            )
        _check(len(before) + len(given), following=given[-1], number=number, info=info)
        found.append(Given(prompt=[*before, *given[:-1]], following=given[-1]))
    return found


def _check(size: int, *, following: int, number: int, info: EngineInfo) -> None:
    """Refuses what the front end would not, or would in words of a prompt."""
    if not (size <= info.max_model_len):
        raise InvalidRequestError(
            "completions",
            f"and their prompts may have {info.max_model_len} tokens together, got "
            f"{size} as number {number}",
        )
    if not (0 <= following < info.vocab_size):
        raise InvalidRequestError(
            "completions",
            f"holds token id {following} as number {number}; ids go from 0 to "
            f"{info.vocab_size - 1}",
        )


def scores_of(
    completions: Sequence[TokenIds],
    scored: Sequence[Sequence[Scored | None] | None],
) -> list[Float32Array]:
    """Returns log probabilities f32[tokens] of each completion.

    Args:
      completions: as they were given.
      scored: of all tokens of each request but the first, after None.

    Raises:
      RequestFailedError: one was aborted before it was scored.
    """
    following = iter(scored)
    scores = []
    for completion in completions:
        count = len(completion)
        rows = next(following) if count else ()
        if rows is None:
            raise RequestFailedError(
                "a score was ended before it was there, by a pause, a sleep or an "
                'update of weights with "abort": ask again'
            )
        of_completion = list(rows)[len(rows) - count :]
        scores.append(
            np.array([row.logprob for row in of_completion if row], np.float32)
        )
    return scores


def params_of(temperature: float | None) -> SamplingParams:
    """Returns the parameters by which given tokens are scored.

    Raises:
      InvalidRequestError: the temperature is out of range, or greedy.
    """
    if temperature is None:
        return SamplingParams(max_tokens=1, prompt_logprobs=0)
    params = SamplingParams(
        temperature=temperature,
        max_tokens=1,
        prompt_logprobs=0,
        logprobs_mode="processed",
    )
    if params.is_greedy:
        raise InvalidRequestError(
            "temperature",
            f"must be at least {MIN_TEMPERATURE} to score by, got {temperature}: a "
            "greedy choice has no distribution",
        )
    return params


def _ids(ids: TokenIds, *, name: str, number: int) -> list[int]:
    """Returns a row of ids as a list; what they may be is checked by the front end."""
    if isinstance(ids, str):
        raise InvalidRequestError(
            name,
            f"must be token ids, got a text as number {number}: where it would be cut "
            "is for its tokenizer to say",
        )
    if not isinstance(ids, Sized):
        raise InvalidRequestError(
            name,
            f"must be rows of token ids, one for each pair, got {type(ids).__name__} "
            f"as number {number}",
        )
    try:
        found = np.asarray(ids) if len(ids) else np.zeros(0, np.int32)
    except ValueError as error:  # rows of several lengths
        raise InvalidRequestError(
            name, f"must be flat lists of token ids, got rows in number {number}"
        ) from error
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InvalidRequestError(
            name,
            f"must be flat lists of integer token ids, got {found.dtype} in "
            f"{found.ndim} dimensions as number {number}",
        )
    listed: list[int] = found.tolist()
    return listed
