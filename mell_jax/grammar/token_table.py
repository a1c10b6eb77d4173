"""A token table says what each token writes, as grammars have to know it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llguidance import LLTokenizer, TokenizerWrapper

Encode = Callable[[str], Sequence[int]]
"""Makes the tokens of a text, without special ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """The table is of one tokenizer, and one model that may have more ids.

    Attributes:
        token_bytes: of every id; empty for ids that are never used.
        special_ids: ids of control tokens, which no text of a grammar holds.
        end_ids: ids that end a text.
        vocab_size: of the model.
        encode: splits what is forced as the model was trained on it.
    """

    token_bytes: Sequence[bytes]
    special_ids: frozenset[int]
    end_ids: tuple[int, ...]
    vocab_size: int
    encode: Encode

    def compiled(self) -> LLTokenizer:
        """Returns the table as llguidance wants it; seconds for 100,000 tokens.

        A model without an end of texts gets one behind its last id.
        """
        ends = list(self.end_ids) or [self.vocab_size]
        size = max(self.vocab_size, len(self.token_bytes), max(ends) + 1)
        padding = [b""] * (size - len(self.token_bytes))
        special = self.special_ids.union(ends)
        named = [
            data or (f"<|{token}|>".encode() if token in special else b"")
            for token, data in enumerate([*self.token_bytes, *padding])
        ]
        source = _Source(
            tokens=named,
            special_token_ids=sorted(special),
            eos_token_id=ends[0],
            encode=self.encode,
            by_bytes={
                data: token for token, data in enumerate(named) if token not in special
            },
            longest=max(map(len, named)),
        )
        return LLTokenizer(TokenizerWrapper(source), n_vocab=size, eos_token=ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The names are those that llguidance looks for."""

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    encode: Encode
    by_bytes: Mapping[bytes, int]
    longest: int  # bytes of a token
    bos_token_id: int | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Returns tokens that write `text`: the tokenizer's, if they do."""
        ids = list(self.encode(text.decode("utf-8")))
        if b"".join(self.tokens[token] for token in ids) == text:
            return ids
        return self._longest(text)  # it puts a space before what begins a text

    def _longest(self, text: bytes) -> list[int]:
        """Returns the longest token that fits, again and again."""
        at, ids = 0, list[int]()
        while at < len(text):
            ends = range(min(at + self.longest, len(text)), at, -1)
            end = next((end for end in ends if text[at:end] in self.by_bytes), None)
            if end is None:
                break  # bytes that no token writes: nothing can be forced
            ids.append(self.by_bytes[text[at:end]])
            at = end
        return ids
