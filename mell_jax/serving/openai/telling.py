"""Answers tell more than OpenAI's where they are asked to, in vLLM's words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mell_jax.frontend import TokenLogprobs

LEAST_LOGPROB = -9999.0  # JSON has no infinity
Row = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """An answer tells this beside its text.

    Attributes:
      has_logprobs: of the answer's tokens; False where they are for choosing alone.
      has_token_ids: of the prompt and of the answer.
      has_prompt_logprobs: of the prompt's tokens.
    """

    has_logprobs: bool = True
    has_token_ids: bool = False
    has_prompt_logprobs: bool = False


TEXT_ALONE = Telling()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """A prompt's facts are told where they are not None."""

    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[Row | None, ...] | None = None


def prompt_rows(
    rows: Sequence[TokenLogprobs | None], *, spell: Callable[[int], str]
) -> tuple[Row | None, ...]:
    """Returns prompt tokens and the alternatives to each, by their ids.

    Args:
      rows: one for each token of the prompt; None for the first one.
      spell: says how a token is written.
    """
    return tuple(None if row is None else _row(row, spell=spell) for row in rows)


def _row(row: TokenLogprobs, *, spell: Callable[[int], str]) -> Row:
    ranks = {token: rank for rank, (token, _) in enumerate(row.top, start=1)}
    values = {row.token: row.logprob, **dict(row.top)}
    return {
        str(token): {
            "logprob": max(value, LEAST_LOGPROB),
            "rank": ranks.get(token),  # unknown below the alternatives
            "decoded_token": spell(token),
        }
        for token, value in values.items()
    }
