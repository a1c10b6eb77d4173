"""Deltas become pieces: what is new of one choice, with the words of its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.frontend import Delta, TokenLogprobs
from mell_jax.text.tokenizer import Tokenizer

_LEAST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word is a token as clients read it."""

    text: str  # U+FFFD where a token is part of a character
    utf8: bytes
    logprob: float | None  # None for the first token of a prompt
    top: tuple[tuple[str, bytes, float], ...]  # most likely first


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece is what is new of one choice, or all of it once joined.

    Attributes:
      index: of the choice.
      text: new text.
      words: new tokens; None when log probabilities were not asked for.
      finish_reason: None until the end.
      is_first: nothing of the choice came before.
      text_offset: characters of words that came before.
    """

    index: int
    text: str
    words: tuple[Word, ...] | None
    finish_reason: str | None
    is_first: bool
    text_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """An echo shows prompts before their answers.

    Attributes:
      texts: of each prompt.
      hides_answer: the prompt is all that was asked for.
    """

    texts: tuple[str, ...]
    hides_answer: bool


@final
class Samples:
    """Reads all choices of a request: n of each prompt, prompt after prompt."""

    def __init__(self, tokenizer: Tokenizer, *, n: int, echo: Echo | None) -> None:
        self._tokenizer = tokenizer
        self._n = n
        self._echo = echo
        self._offsets: dict[int, int] = {}  # characters of words, by choice
        self._completion_tokens: dict[int, int] = {}  # by choice
        self._prompts: dict[int, tuple[int, int]] = {}  # tokens, and cached, by prompt

    def read(self, delta: Delta, *, prompt: int) -> Piece:
        """Returns what `delta`, of the prompt of this number, adds to its choice."""
        choice = prompt * self._n + delta.index
        is_first = choice not in self._offsets
        text, words = delta.text, self._words(delta.logprobs)
        count = delta.completion_tokens
        if self._echo is not None:
            if self._echo.hides_answer:
                text, words, count = "", words and (), 0
            if is_first:
                text = self._echo.texts[prompt] + text
                words = words if words is None else self._prompt_words(delta) + words
        self._completion_tokens[choice] = count
        self._prompts[prompt] = (
            delta.prompt_tokens,
            max(delta.cached_tokens, self._prompts.get(prompt, (0, 0))[1]),
        )
        offset = self._offsets.get(choice, 0)
        self._offsets[choice] = offset + sum(len(word.text) for word in words or ())
        return Piece(
            index=choice,
            text=text,
            words=words,
            finish_reason=None if delta.finish is None else delta.finish.reason,
            is_first=is_first,
            text_offset=offset,
        )

    def usage(self) -> Mapping[str, object]:
        """Counts the tokens so far; a prompt counts once, whatever n is."""
        prompt = sum(count for count, _ in self._prompts.values())
        cached = sum(cached for _, cached in self._prompts.values())
        completion = sum(self._completion_tokens.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _prompt_words(self, delta: Delta) -> tuple[Word, ...]:
        rows = delta.prompt_logprobs
        assert rows is not None, "echo asks for them"
        first, *others = rows
        assert first is None, first
        utf8 = self._utf8(delta.prompt_token_ids[0])
        word = Word(text=_text(utf8), utf8=utf8, logprob=None, top=())
        return (word, *(self._word(row) for row in others if row is not None))

    def _words(self, rows: Sequence[TokenLogprobs] | None) -> tuple[Word, ...] | None:
        return None if rows is None else tuple(map(self._word, rows))

    def _word(self, row: TokenLogprobs) -> Word:
        utf8 = self._utf8(row.token)
        top = ((self._utf8(token), logprob) for token, logprob in row.top)
        return Word(
            text=_text(utf8),
            utf8=utf8,
            logprob=max(row.logprob, _LEAST_LOGPROB),
            top=tuple(
                (_text(each), each, max(logprob, _LEAST_LOGPROB))
                for each, logprob in top
            ),
        )

    def _utf8(self, token: int) -> bytes:
        return self._tokenizer.vocabulary.join((token,), skip_special_tokens=False)


def join(pieces: Sequence[Piece]) -> Piece:
    """Joins all pieces of one choice."""
    has_words = any(piece.words is not None for piece in pieces)
    words = (word for piece in pieces for word in piece.words or ())
    return Piece(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        words=tuple(words) if has_words else None,
        finish_reason=pieces[-1].finish_reason,
        is_first=True,
        text_offset=pieces[0].text_offset,
    )


def _text(utf8: bytes) -> str:
    return utf8.decode("utf-8", errors="replace")
