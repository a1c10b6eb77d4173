"""Deltas become pieces: what is new of one choice, with the words of its tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import msgspec

from mell_jax.frontend import Delta, TokenLogprobs, VersionRange, joined
from mell_jax.serving.openai.telling import (
    LEAST_LOGPROB,
    TEXT_ALONE,
    PromptFacts,
    Telling,
    prompt_rows,
)
from mell_jax.text.answers import AnswerParser, Event
from mell_jax.text.detokenizer import Detokenizer
from mell_jax.text.tokenizer import Tokenizer


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
      token_ids: new tokens; None when they are not told.
      prompt: what is told of the prompt, with the first piece.
      num_tokens: new ones.
      logprob: of the new tokens together; 0 where it is not known.
      events: what the text is made of; None where it is nothing but text.
      versions: of the weights that the new tokens are of, as ranges of the choice's.
    """

    index: int
    text: str
    words: tuple[Word, ...] | None
    finish_reason: str | None
    is_first: bool
    offsets: tuple[int, ...]
    token_ids: tuple[int, ...] | None = None
    prompt: PromptFacts | None = None
    num_tokens: int = 0
    logprob: float = 0.0
    events: tuple[Event, ...] | None = None
    versions: tuple[VersionRange, ...] = ()

    @property
    def version(self) -> str:
        """Returns the version of the last new token; empty without one."""
        return self.versions[-1].version if self.versions else ""


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
        telling: Telling = TEXT_ALONE,
        new_parser: Callable[[], AnswerParser] | None = None,
    ) -> None:
        """Starts with nothing read.

        Args:
          tokenizer: of the model.
          n: choices of each prompt.
          echo: shows the prompts too; None for answers alone.
          skips_special_tokens: texts of answers do not have them.
          telling: what else is told.
          new_parser: reads the parts of one choice; None where there is only text.
        """
        self._tokenizer = tokenizer
        self.n = n
        self._new_parser = new_parser
        self._parsers: dict[int, AnswerParser] = {}  # by choice
        self._telling = telling
        self._facts: dict[int, PromptFacts] = {}  # by prompt
        self._skips_special_tokens = skips_special_tokens
        self._echo = echo
        self._rulers: dict[int, _Ruler] = {}  # of the text, by choice
        self._completion_tokens: dict[int, int] = {}  # by choice
        self._prompts: dict[int, tuple[int, int]] = {}  # tokens, and cached, by prompt

    def read(self, delta: Delta, *, prompt: int) -> Piece:
        """Returns what `delta`, of the prompt of this number, adds to its choice."""
        choice = prompt * self.n + delta.index
        is_first = choice not in self._rulers
        rows = delta.logprobs if self._telling.has_logprobs else None
        text, words = delta.text, self._words(rows)
        self._learn(delta, prompt=prompt)
        tokens = [row.token for row in delta.logprobs or ()]
        count = delta.completion_tokens
        if self._echo is not None and self._echo.hides_answer:
            text, tokens, count = "", [], 0
            delta = msgspec.structs.replace(delta, token_ids=(), weights_versions=())
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
            token_ids=delta.token_ids if self._telling.has_token_ids else None,
            events=None
            if self._new_parser is None
            else self._parts(text, choice=choice, is_last=delta.finish is not None),
            prompt=self._facts.get(prompt) if is_first else None,
            num_tokens=len(delta.token_ids),
            logprob=sum(row.logprob for row in delta.logprobs or ()),
            versions=delta.weights_versions,
        )

    def whole(self, choices: Mapping[int, Sequence[Piece]]) -> list[Piece]:
        """Returns whole choices, in order, each with all that is told of its prompt."""
        return [
            replace(join(choices[index]), prompt=self._facts.get(index // self.n))
            for index in sorted(choices)
        ]

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

    def _parts(self, text: str, *, choice: int, is_last: bool) -> tuple[Event, ...]:
        """Returns what a choice's new text is made of."""
        assert self._new_parser is not None, "its text has parts"
        parser = self._parsers.get(choice)
        if parser is None:
            parser = self._parsers[choice] = self._new_parser()
        events = parser.push(text)
        return (*events, *parser.finish()) if is_last else events

    def _learn(self, delta: Delta, *, prompt: int) -> None:
        """Keeps what is told of a prompt; one of its samples has the probabilities."""
        telling, rows = self._telling, delta.prompt_logprobs
        known = self._facts.get(prompt)
        if known is None and (telling.has_token_ids or telling.has_prompt_logprobs):
            ids = delta.prompt_token_ids if telling.has_token_ids else None
            known = self._facts[prompt] = PromptFacts(token_ids=ids)
        if known is not None and telling.has_prompt_logprobs and rows is not None:
            spelled = prompt_rows(rows, spell=lambda token: _text(self._utf8(token)))
            self._facts[prompt] = replace(known, logprobs=spelled)

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
            logprob=max(row.logprob, LEAST_LOGPROB),
            top=tuple(
                (_text(each), each, max(logprob, LEAST_LOGPROB))
                for each, logprob in top
            ),
        )

    def _utf8(self, token: int) -> bytes:
        return self._tokenizer.vocabulary.join((token,))


def join(pieces: Sequence[Piece]) -> Piece:
    """Joins all pieces of one choice."""
    has_words = any(piece.words is not None for piece in pieces)
    words = (word for piece in pieces for word in piece.words or ())
    ids = (token for piece in pieces for token in piece.token_ids or ())
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
        token_ids=None if pieces[0].token_ids is None else tuple(ids),
        prompt=pieces[0].prompt,
        num_tokens=sum(piece.num_tokens for piece in pieces),
        logprob=sum(piece.logprob for piece in pieces),
        events=None
        if pieces[0].events is None
        else tuple(event for piece in pieces for event in piece.events or ()),
        versions=joined(each for piece in pieces for each in piece.versions),
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
