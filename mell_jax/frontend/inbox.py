"""An inbox holds what arrived for one sequence and was not read yet.

While a reader is slow its tokens coalesce here, 4 bytes each and 8 more per asked-for
alternative, at most max_tokens of them: the engine never waits for a reader.
"""

from array import array
from typing import final

import msgspec

from mell_jax.engine.frames import Finished, Handle, Logprobs, PromptDone
from mell_jax.frontend.versions import VersionStart


class TokenLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Holds the log probability of one token and of its most likely alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token, logprob), most likely first


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """Holds everything that came for one sequence since it was last read."""

    index: int  # of the sample
    handle: Handle
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None  # None when not asked for
    prompt: PromptDone | None
    finished: Finished | None
    versions: tuple[VersionStart, ...] = ()  # that begin among `tokens`

    @property
    def num_tokens(self) -> int:
        """Counts tokens that become text or log probabilities, prompt included."""
        if self.prompt is None or self.prompt.logprobs is None:
            return len(self.tokens)
        return len(self.tokens) + len(self.prompt.logprobs.chosen)


@final
class Inbox:
    """Collects the rows of one sequence."""

    def __init__(
        self, handle: Handle, *, index: int, num_top_logprobs: int | None
    ) -> None:
        """Starts empty; `num_top_logprobs` None drops log probabilities."""
        self.handle = handle
        self.index = index
        self._num_top = num_top_logprobs
        self._tokens = array("i")
        self._chosen = array("f")
        self._top_ids = array("i")
        self._top = array("f")
        self._versions: list[VersionStart] = []
        self._prompt: PromptDone | None = None
        self._finished: Finished | None = None

    @property
    def is_finished(self) -> bool:
        return self._finished is not None

    def add(self, token: int, *, logprobs: Logprobs | None, row: int) -> None:
        self._tokens.append(token)
        if self._num_top is None:
            return
        assert logprobs is not None, f"no log probabilities for {self.handle}"
        self._chosen.append(logprobs.chosen[row])
        self._top_ids.extend(logprobs.top_ids[row, : self._num_top].tolist())
        self._top.extend(logprobs.top[row, : self._num_top].tolist())

    def add_version(self, version: str) -> None:
        """Notes that tokens from now on are of weights of this version."""
        self._versions.append(VersionStart(len(self._tokens), version))

    def add_prompt(self, prompt: PromptDone) -> None:
        self._prompt = prompt

    def add_finished(self, finished: Finished) -> None:
        self._finished = finished

    def take(self) -> Arrival | None:
        """Returns everything collected, or None; the inbox is empty afterwards."""
        if not self._tokens and self._prompt is None and self._finished is None:
            return None
        arrival = Arrival(
            index=self.index,
            handle=self.handle,
            tokens=tuple(self._tokens),
            logprobs=self._token_logprobs(),
            prompt=self._prompt,
            finished=self._finished,
            versions=tuple(self._versions),
        )
        del self._tokens[:], self._versions[:]
        if self._num_top is not None:
            for column in (self._chosen, self._top_ids, self._top):
                del column[:]
        self._prompt = None
        return arrival

    def _token_logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        k = self._num_top
        if k is None:
            return None
        return tuple(
            TokenLogprobs(
                token=token,
                logprob=self._chosen[i],
                top=tuple(
                    zip(
                        self._top_ids[i * k : (i + 1) * k],
                        self._top[i * k : (i + 1) * k],
                        strict=True,
                    )
                ),
            )
            for i, token in enumerate(self._tokens)
        )
