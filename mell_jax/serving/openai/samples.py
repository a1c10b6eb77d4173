"""Deltas become pieces: what is new of one choice, with the words of its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.frontend import Delta, TokenLogprobs
from mell_jax.text.detokenizer import Detokenizer
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
      offsets: of each word in the whole text of the choice, in characters.
    """

    index: int
    text: str
    words: tuple[Word, ...] | None
    finish_reason: str | None
    is_first: bool
    offsets: tuple[int, ...]


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

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        n: int,
        echo: Echo | None,
        skips_special_tokens: bool,
    ) -> None:
        """Starts with nothing read.

        Args:
          tokenizer: of the model.
          n: choices of each prompt.
          echo: shows the prompts too; None for answers alone.
          skips_special_tokens: texts of answers do not have them.
        """
        self._tokenizer = tokenizer
        self._n = n
        self._skips_special_tokens = skips_special_tokens
        self._echo = echo
        self._rulers: dict[int, _Ruler] = {}  # of the text, by choice
        self._completion_tokens: dict[int, int] = {}  # by choice
        self._prompts: dict[int, tuple[int, int]] = {}  # tokens, and cached, by prompt

    def read(self, delta: Delta, *, prompt: int) -> Piece:
        """Returns what `delta`, of the prompt of this number, adds to its choice."""
        choice = prompt * self._n + delta.index
        is_first = choice not in self._rulers
        text, words = delta.text, self._words(delta.logprobs)
        tokens = [row.token for row in delta.logprobs or ()]
        count = delta.completion_tokens
        if self._echo is not None and self._echo.hides_answer:
            text, tokens, count = "", [], 0
            words = None if words is None else ()
        ruler = self._rulers.get(choice)
        if ruler is None:
            ruler = self._rulers[choice] = self._make_ruler(prompt)
        offsets = ruler.measure(tokens)
        if self._echo is not None and is_first:
            shown = self._echo.texts[prompt]
            text = shown + text
            if words is not None and not _is_over_unread(delta):
                words = self._prompt_words(delta) + words
                before = _prompt_offsets(
                    delta.prompt_token_ids, text=shown, tokenizer=self._tokenizer
                )
                offsets = before + offsets
        ruler.see(text)
        self._completion_tokens[choice] = count
        self._prompts[prompt] = (
            delta.prompt_tokens,
            max(delta.cached_tokens, self._prompts.get(prompt, (0, 0))[1]),
        )
        return Piece(
            index=choice,
            text=text,
            words=words,
            finish_reason=None if delta.finish is None else delta.finish.reason,
            is_first=is_first,
            offsets=ruler.clipped(offsets) if delta.finish else tuple(offsets),
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

    def _make_ruler(self, prompt: int) -> "_Ruler":
        return _Ruler(
            Detokenizer(
                self._tokenizer,
                skip_special_tokens=self._skips_special_tokens,
                continues_text=True,
            ),
            start=0 if self._echo is None else len(self._echo.texts[prompt]),
        )

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
        offsets=tuple(
            min(offset, sum(len(piece.text) for piece in pieces))
            for piece in pieces
            for offset in piece.offsets
        ),
    )


@final
class _Ruler:
    """Says where in the text of a choice each token begins.

    A token that is part of a character begins where the character does.
    """

    def __init__(self, detokenizer: Detokenizer, *, start: int) -> None:
        self._detokenizer = detokenizer
        self._at = start
        self._seen = 0  # characters that the client has

    def measure(self, tokens: Sequence[int]) -> list[int]:
        """Returns the offsets of more tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._at)
            self._at += len(self._detokenizer.add((token,)))
        return offsets

    def see(self, text: str) -> None:
        """Counts text that the client gets."""
        self._seen += len(text)

    def clipped(self, offsets: Sequence[int]) -> tuple[int, ...]:
        """Returns offsets that lie in a text which a stop string may have cut."""
        return tuple(min(offset, self._seen) for offset in offsets)


def _is_over_unread(delta: Delta) -> bool:
    """Returns whether a sample ended before its prompt was computed."""
    is_empty = delta.prompt_logprobs is None and not delta.completion_tokens
    return is_empty and delta.finish is not None


def _prompt_offsets(
    ids: Sequence[int], *, text: str, tokenizer: Tokenizer
) -> list[int]:
    """Returns where in a prompt's text each of its tokens begins.

    Special tokens are in the text where it spells them, and else hidden around it.
    """
    vocabulary = tokenizer.vocabulary
    plain = Detokenizer(tokenizer, skip_special_tokens=True)
    offsets, at = [], 0
    for token in ids:
        offsets.append(min(at, len(text)))
        if token in vocabulary.special_ids:
            spelled = vocabulary.decode((token,), skip_special_tokens=False)
            at += len(spelled) if text.startswith(spelled, at) else 0
        else:
            at += len(plain.add((token,)))
    return offsets


def _text(utf8: bytes) -> str:
    return utf8.decode("utf-8", errors="replace")
