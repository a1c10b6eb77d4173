"""Given tokens are scored as prompts whose log probabilities are asked for.

prompt [5 6], completion [7 8]  ->  request [5 6 7 8]  ->  those of 7 and 8
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import EngineInfo
from mell_jax.engine.params import (
    MIN_TEMPERATURE,
    InvalidRequestError,
    SamplingParams,
)
from mell_jax.engine.validate import check_prompt_size

TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]
Float32Array = npt.NDArray[np.float32]


class Scored(Protocol):
    """One token of a prompt, and how likely it was."""

    @property
    def logprob(self) -> float: ...


def requests_of(
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    *,
    temperature: float | None,
    info: EngineInfo,
) -> tuple[list[list[int]], SamplingParams]:
    """Returns a prompt for each completion that is not empty, and their parameters.

    Raises:
      InvalidRequestError: what cannot be scored; names the pair.
    """
    if len(prompts) != len(completions):
        raise InvalidRequestError(
            "completions",
            f"must be one for each of {len(prompts)} prompts, got {len(completions)}",
        )
    requests = []
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
        try:
            check_prompt_size(len(before) + len(given), info=info)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                "completions", f"number {number} with its {error}"
            ) from error
        requests.append([*before, *given])
    return requests, _params(temperature)


def scores_of(
    completions: Sequence[TokenIds],
    scored: Sequence[Sequence[Scored | None] | None],
) -> list[Float32Array]:
    """Returns log probabilities f32[tokens] of each completion.

    Args:
      completions: as they were given.
      scored: of all tokens of each request, in their order.
    """
    following = iter(scored)
    scores = []
    for completion in completions:
        count = len(completion)
        rows = next(following) if count else ()
        assert rows is not None, "log probabilities were asked for"
        of_completion = list(rows)[len(rows) - count :]
        scores.append(
            np.array([row.logprob for row in of_completion if row], np.float32)
        )
    return scores


def _params(temperature: float | None) -> SamplingParams:
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
    found = np.asarray(ids) if len(ids) else np.zeros(0, np.int32)
    if found.ndim != 1:
        raise InvalidRequestError(
            name,
            f"must be flat lists of token ids, got {found.ndim} dimensions at "
            f"number {number}",
        )
    listed: list[int] = found.tolist()
    return listed
