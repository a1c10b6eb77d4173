"""Makes one stream's text: token ids to what the client reads, cut at a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.text.detokenizer import Detokenizer
from mell_jax.text.stop_strings import Emit, StopMatcher
from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """Some tokens add this to a stream's text.

    Attributes:
        text: new text; it never changes later.
        stop: the stop string that ends the stream, None while there is none.
        num_tokens_used: how many of the ids belong to the stream: all of them, or
            those up to the one that completed the stop string.
    """

    text: str
    stop: str | None
    num_tokens_used: int


@final
class OutputText:
    """An output text joins a detokenizer and a stop string search for one stream.

    When a delta names a stop string, the caller cuts the ids to `num_tokens_used` and
    aborts the request in the engine; tokens that were already on their way may still
    be added, and are not used.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str],
        include_stop: bool,
        skip_special_tokens: bool,
        min_tokens: int,
        continues_text: bool = False,
        kept_ids: frozenset[int] = frozenset(),
    ) -> None:
        """A stream at its beginning.

        Args:
            tokenizer: knows the tokens.
            stops: strings that end the stream.
            include_stop: whether the text includes the stop string.
            skip_special_tokens: whether special tokens are left out of the text.
            min_tokens: the stream's first tokens that cannot complete a stop string.
            continues_text: see `Detokenizer`.
            kept_ids: see `Detokenizer`.

        Raises:
            ValueError: a stop string is empty, or `min_tokens` is negative.
        """
        if not (min_tokens >= 0):
            raise ValueError(f"min_tokens must be 0 or more, got {min_tokens}")
        self._detokenizer = Detokenizer(
            tokenizer,
            skip_special_tokens=skip_special_tokens,
            continues_text=continues_text,
            kept_ids=kept_ids,
        )
        self._matcher = StopMatcher(stops, include_stop=include_stop)
        self._has_stops = bool(stops)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._stop: str | None = None

    def add(self, ids: Sequence[int]) -> TextDelta:
        """Returns the text that `ids` complete.

        Raises:
            ValueError: an id is negative.
        """
        if self._stop is not None:
            return TextDelta(text="", stop=self._stop, num_tokens_used=0)
        if not self._has_stops:
            text = self._detokenizer.add(ids)
            return TextDelta(text=text, stop=None, num_tokens_used=len(ids))
        parts = []
        num_used = 0
        for token_id in ids:
            self._num_tokens += 1
            num_used += 1
            emit = self._push(self._detokenizer.add((token_id,)))
            parts.append(emit.text)
            if emit.matched is not None:
                break
        return TextDelta(text="".join(parts), stop=self._stop, num_tokens_used=num_used)

    def finish(self) -> TextDelta:
        """Returns what was held back at the end; nothing after a stop string."""
        if self._stop is not None:
            return TextDelta(text="", stop=self._stop, num_tokens_used=0)
        text = self._push(self._detokenizer.flush()).text
        if self._stop is None:
            text += self._matcher.flush().text
        return TextDelta(text=text, stop=self._stop, num_tokens_used=0)

    def _push(self, text: str) -> Emit:
        emit = self._matcher.push(text, is_armed=self._num_tokens > self._min_tokens)
        self._stop = emit.matched
        return emit
