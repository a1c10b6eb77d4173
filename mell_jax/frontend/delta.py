"""A delta is what a reader gets: everything that was ready of one sample."""

from dataclasses import dataclass
from typing import final

import msgspec

from mell_jax.engine.frames import FinishReason, PromptDone
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend.errors import RequestFailedError
from mell_jax.frontend.inbox import Arrival, TokenLogprobs
from mell_jax.frontend.versions import VersionRange, ranges_of
from mell_jax.text.output_text import OutputText
from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnd:
    """Tells why a sample ended, and the token or the string that ended it."""

    reason: str  # "stop", "length" or "abort"
    stop_token: int | None = None
    stop_string: str | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what is new of one sample.

    Attributes:
        index: of the sample, 0 to n - 1.
        token_ids: new tokens; a stop token is the last one of its sample.
        text: new text, without the stop token or string unless asked for.
        logprobs: one per new token; None when not asked for.
        finish: set in the sample's last delta, None before.
        prompt_token_ids: the prompt, the same in every delta.
        completion_tokens: tokens of this sample so far.
        cached_tokens: prompt tokens that came from the prefix cache.
        prompt_logprobs: one per prompt token, None for the first one, and one of the
            token that is to follow if there is one, in the first delta of sample 0;
            None otherwise and when not asked for.
        weights_version: of the sample's last token so far; empty before the first.
        weights_versions: of the new tokens, as ranges of the sample's.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] | None
    finish: SampleEnd | None
    prompt_token_ids: tuple[int, ...]
    completion_tokens: int
    cached_tokens: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None
    weights_version: str = ""
    weights_versions: tuple[VersionRange, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)


@final
class DeltaMaker:
    """Turns what arrives for one sample into deltas; finds its stop strings."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt: tuple[int, ...],
        tokenizer: Tokenizer | None,
        kept_ids: frozenset[int] = frozenset(),
        following: int | None = None,
    ) -> None:
        """`tokenizer` None leaves the text empty; then there are no stop strings."""
        self._prompt = prompt
        self._scored = prompt[1:] if following is None else (*prompt[1:], following)
        self._include_stop = params.include_stop_str_in_output
        self._num_prompt_logprobs = params.prompt_logprobs
        self._num_tokens = 0
        self._cached_tokens = 0
        self._version = ""
        self._text: OutputText | None = None
        if tokenizer is not None:
            self._text = OutputText(
                tokenizer,
                stops=params.stop,
                include_stop=params.include_stop_str_in_output,
                skip_special_tokens=params.skip_special_tokens,
                kept_ids=kept_ids,
                min_tokens=params.min_tokens,
                continues_text=True,
            )

    def read(self, arrival: Arrival) -> Delta:
        """Returns the delta of an arrival; its ids end where a stop string is complete.

        Raises:
            InvalidRequestError: the engine refused the request.
            RequestFailedError: the engine gave the request up.
        """
        finish = _finish_of(arrival)
        text, used, stop_string = self._read_text(arrival, finish=finish)
        if stop_string is not None:
            finish = SampleEnd(reason="stop", stop_string=stop_string)
        ranges = ranges_of(
            arrival.versions, version=self._version, first=self._num_tokens, count=used
        )
        self._version = ranges[-1].version if ranges else self._version
        self._num_tokens += used
        prompt_logprobs = None
        if arrival.prompt is not None:
            self._cached_tokens = arrival.prompt.cached_tokens
            prompt_logprobs = self._read_prompt_logprobs(arrival.prompt)
        logprobs = arrival.logprobs
        return Delta(
            index=arrival.index,
            token_ids=arrival.tokens[:used],
            text=text,
            logprobs=None if logprobs is None else logprobs[:used],
            finish=finish,
            prompt_token_ids=self._prompt,
            completion_tokens=self._num_tokens,
            cached_tokens=self._cached_tokens,
            prompt_logprobs=prompt_logprobs,
            weights_version=self._version,
            weights_versions=ranges,
        )

    def _read_text(
        self, arrival: Arrival, *, finish: SampleEnd | None
    ) -> tuple[str, int, str | None]:
        """Returns text, tokens used, and the stop string if one is complete."""
        ids = arrival.tokens
        if self._text is None:
            return "", len(ids), None
        is_cut = finish is not None and finish.stop_token is not None
        shown = ids[:-1] if is_cut and not self._include_stop else ids
        delta = self._text.add(shown)
        if delta.stop is not None:
            return delta.text, delta.num_tokens_used, delta.stop
        if finish is None:
            return delta.text, len(ids), None
        rest = self._text.finish()
        return delta.text + rest.text, len(ids), rest.stop

    def _read_prompt_logprobs(
        self, prompt: PromptDone
    ) -> tuple[TokenLogprobs | None, ...] | None:
        k, rows = self._num_prompt_logprobs, prompt.logprobs
        if k is None:
            return None
        assert rows is not None, f"no prompt log probabilities for {prompt.handle}"
        columns = zip(
            self._scored,
            rows.chosen.tolist(),
            rows.top_ids[:, :k].tolist(),
            rows.top[:, :k].tolist(),
            strict=True,
        )
        known = (
            TokenLogprobs(
                token=token, logprob=chosen, top=tuple(zip(ids, values, strict=True))
            )
            for token, chosen, ids, values in columns
        )
        return (None, *known)


def _finish_of(arrival: Arrival) -> SampleEnd | None:
    finished = arrival.finished
    if finished is None:
        return None
    if finished.reason is not FinishReason.ERROR:
        return SampleEnd(reason=finished.reason.value, stop_token=finished.stop_token)
    if finished.field:
        rule = finished.message.removeprefix(f"{finished.field} ")
        raise InvalidRequestError(finished.field, rule)
    raise RequestFailedError(finished.message)
