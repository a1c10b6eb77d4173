"""Rules that depend on the model are checked here, for every front end."""

import math
from collections.abc import Sequence

import numpy as np

from mell_jax.engine.frames import EngineInfo, Submit
from mell_jax.engine.params import (
    MAX_PROMPT_LOGPROBS,
    MAX_STOP_IDS,
    InvalidRequestError,
    SamplingParams,
)


def find_info(submit: Submit, *, infos: Sequence[EngineInfo]) -> EngineInfo:
    """Returns the model that a request is for: the one it names, or the first.

    Raises:
      InvalidRequestError: no model of that name is served.
    """
    for info in infos:
        if submit.model in ("", info.model_name):
            return info
    names = ", ".join(repr(info.model_name) for info in infos)
    raise InvalidRequestError(
        "model", f"must be one of those served ({names}), got {submit.model!r:.100}"
    )


def check_prompt_size(size: int, *, info: EngineInfo) -> None:
    """Refuses a prompt that is empty or fills the context, by its number of tokens.

    Raises:
      InvalidRequestError: says how many there may be.
    """
    if not (size > 0):
        raise InvalidRequestError("prompt", "must hold at least one token, got none")
    if not (size < info.max_model_len):
        raise InvalidRequestError(
            "prompt",
            f"of {size} tokens leaves no room to generate: prompt and output "
            f"together may have {info.max_model_len} tokens",
        )


def check_submit(submit: Submit, *, info: EngineInfo) -> None:
    """Refuses a request that the engine could not serve as asked.

    Raises:
      InvalidRequestError: names the parameter, the rule and the value.
    """
    prompt, params = submit.prompt, submit.params
    if not (0 < submit.weight < math.inf):
        raise InvalidRequestError(
            "weight", f"must be above 0 and finite, got {submit.weight}"
        )
    check_prompt_size(prompt.size if prompt.ndim == 1 else 0, info=info)
    if not np.issubdtype(prompt.dtype, np.integer):
        raise InvalidRequestError(
            "prompt", f"must hold integers, got numbers of type {prompt.dtype}"
        )
    low, high = int(prompt.min()), int(prompt.max())
    if not (low >= 0 and high < info.vocab_size):
        bad = low if low < 0 else high
        raise InvalidRequestError(
            "prompt", f"holds token id {bad}; ids go from 0 to {info.vocab_size - 1}"
        )
    room = info.max_model_len - prompt.size
    if params.max_tokens is not None and not (params.max_tokens <= room):
        raise InvalidRequestError(
            "max_tokens",
            f"of {params.max_tokens} with a prompt of {prompt.size} tokens exceeds the "
            f"context of {info.max_model_len}; at most {room} fit",
        )
    if not (params.min_tokens <= room):
        raise InvalidRequestError(
            "min_tokens", f"of {params.min_tokens} exceeds the {room} tokens that fit"
        )
    _check_prompt_logprobs(params, size=prompt.size)
    _check_token_ids(params, info=info)


def _check_prompt_logprobs(params: SamplingParams, *, size: int) -> None:
    count = params.prompt_logprobs
    if count is not None and not (size * (1 + count) <= MAX_PROMPT_LOGPROBS):
        raise InvalidRequestError(
            "prompt_logprobs",
            f"of {count} beside the token's own are {size * (1 + count)} for a prompt "
            f"of {size} tokens; at most {MAX_PROMPT_LOGPROBS} can be asked for",
        )


def _check_token_ids(params: SamplingParams, *, info: EngineInfo) -> None:
    for name, ids in (
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", tuple(params.logit_bias)),
        ("allowed_token_ids", params.allowed_token_ids or ()),
    ):
        for token in ids:
            if not (isinstance(token, int) and 0 <= token < info.vocab_size):
                raise InvalidRequestError(
                    name, f"holds {token!r}; ids go from 0 to {info.vocab_size - 1}"
                )
    stops = {*params.stop_token_ids, *info.eos_token_ids}
    if not (len(stops) <= MAX_STOP_IDS):
        raise InvalidRequestError(
            "stop_token_ids",
            f"and the model's {len(info.eos_token_ids)} end-of-sequence ids may be at "
            f"most {MAX_STOP_IDS} together, got {len(stops)}",
        )
    allowed = params.allowed_token_ids
    if allowed is not None and params.min_tokens > 0 and stops.issuperset(allowed):
        raise InvalidRequestError(
            "allowed_token_ids",
            f"holds nothing but stop tokens, which min_tokens = {params.min_tokens} "
            "bars at first; allow another token",
        )
