"""Answers of the library: one sample, and all that was generated for a prompt."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.frontend import (
    Ask,
    Delta,
    FrontEnd,
    TokenLogprobs,
    VersionRange,
    generate,
    joined,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sample has been generated."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None  # one per token; None: not asked for
    finish_reason: str  # "stop", "length" or "abort"
    stop_token: int | None
    stop_string: str | None
    weights_version: str = ""  # of its last token; empty without one
    weights_versions: tuple[VersionRange, ...] = ()  # of its tokens, mostly one


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """Everything is here that was generated for one prompt."""

    completions: tuple[Completion, ...]  # n of them
    prompt_tokens: int
    prompt_token_ids: tuple[int, ...]
    cached_tokens: int  # prompt tokens that came from the prefix cache
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None

    @property
    def text(self) -> str:
        """Returns the text of the first sample."""
        return self.completions[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Returns the tokens of the first sample."""
        return self.completions[0].token_ids


async def collect_all(front_end: FrontEnd, asks: Sequence[Ask]) -> list[RequestOutput]:
    """Returns all answers, in their order; if one fails the others are given up."""
    tasks = [asyncio.create_task(_collect(front_end, ask)) for ask in asks]
    try:
        return await asyncio.gather(*tasks)
    finally:  # one failed or the caller left: give up the others
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _collect(front_end: FrontEnd, ask: Ask) -> RequestOutput:
    deltas: list[list[Delta]] = [[] for _ in range(ask.params.n)]
    async with contextlib.aclosing(generate(front_end, ask)) as stream:
        async for delta in stream:
            deltas[delta.index].append(delta)
    first = deltas[0][0]
    return RequestOutput(
        completions=tuple(_completion(parts, ask=ask) for parts in deltas),
        prompt_tokens=first.prompt_tokens,
        prompt_token_ids=first.prompt_token_ids,
        cached_tokens=first.cached_tokens,
        prompt_logprobs=first.prompt_logprobs,
    )


def _completion(parts: Sequence[Delta], *, ask: Ask) -> Completion:
    """Returns a sample from all of its deltas; the last one tells how it ended."""
    finish = parts[-1].finish
    assert finish is not None, "a stream ended without a finish"
    logprobs = tuple(one for part in parts for one in part.logprobs or ())
    return Completion(
        index=parts[0].index,
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        logprobs=None if ask.params.logprobs is None else logprobs,
        finish_reason=finish.reason,
        stop_token=finish.stop_token,
        stop_string=finish.stop_string,
        weights_version=parts[-1].weights_version,
        weights_versions=joined(
            each for part in parts for each in part.weights_versions
        ),
    )
