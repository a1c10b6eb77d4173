"""Every token id stands for bytes: this is the one idea that the folder rests on.

    ids    [ 17,       3,       4,    99 ]
    bytes    b" caf" | b"\\xc3" | b"\\xa9" | b"</s>"      text: "caf\\xe9"

Text is the tokens' bytes, joined, read as UTF-8, so it can be made token by token
and never depends on how the ids were split.  Encoders fill this in when they load.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

EVERY_SPACE = sys.maxsize
"""`leading_spaces` of a vocabulary whose text never starts with a space."""

MAX_NORMALIZER_SHRINK = 4
"""Bytes of text per byte of normalized text, at most: U+1D400 (4 bytes) -> "A" (1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A vocabulary holds the tokens of one tokenizer.

    Attributes:
        token_bytes: UTF-8 bytes (perhaps part of a character) of every id; empty for
            an id the tokenizer never uses.
        special_ids: ids of control tokens, such as the end of a sequence.
        bos_id: id of the token that begins a text, None if unknown.
        eos_id: id of the token that ends a text, None if unknown.
        leading_spaces: how many spaces are dropped, at most, where a text begins:
            SentencePiece writes "Hello" as " Hello".
        longest_token_bytes: the most bytes of a prompt that one token stands for.
            White space that a tokenizer collapses, and characters it has no token
            for, are not counted.
    """

    token_bytes: tuple[bytes, ...]
    special_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    leading_spaces: int
    longest_token_bytes: int

    def join(self, ids: Iterable[int], *, but: frozenset[int] = frozenset()) -> bytes:
        """Returns the bytes of `ids`; nothing for ids past the end (models pad their
        heads), and for those that `but` has.

        Raises:
            ValueError: an id is negative.
        """
        parts = []
        for token_id in ids:
            if not (token_id >= 0):
                raise ValueError(f"token ids are 0 or more, got {token_id}")
            if token_id < len(self.token_bytes) and token_id not in but:
                parts.append(self.token_bytes[token_id])
        return b"".join(parts)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of `ids`, with U+FFFD for bytes that are no UTF-8.

        Raises:
            ValueError: an id is negative.
        """
        skipped = self.special_ids if skip_special_tokens else frozenset[int]()
        joined = self.join(ids, but=skipped)
        text = joined.decode("utf-8", errors="replace")
        num_spaces = len(text) - len(text.lstrip(" "))
        return text[min(num_spaces, self.leading_spaces) :]


def find_longest_token_bytes(
    token_bytes: Iterable[bytes], *, normalize: Callable[[str], str] | None
) -> int:
    """Returns the most bytes of a prompt that one token stands for.

    A normalizer that composes or folds characters turns up to `MAX_NORMALIZER_SHRINK`
    bytes into one; whether it does is seen from two characters.
    """
    longest = max(map(len, token_bytes), default=0)
    probe = "e\u0301\uff21"  # e + combining acute, fullwidth A
    shrinks = normalize is not None and probe not in normalize(probe)
    return longest * MAX_NORMALIZER_SHRINK if shrinks else longest


def find_leading_spaces(
    texts: Mapping[int, str], *, decode: Callable[[list[int]], str]
) -> int:
    """Tells how many leading spaces a tokenizer's own `decode` drops, by trying.

    Args:
        texts: what ids stand for in the middle of a text; single bytes left out.
        decode: the tokenizer's own decoder of a whole text.
    """
    word = next(
        (i for i, text in texts.items() if text[:1] == " " and text[1:].isalnum()), None
    )
    if word is None:
        return 0
    space = next((i for i, text in texts.items() if text == " "), None)
    ids = [word] if space is None else [space, space, word]
    whole = "".join(texts[i] for i in ids)
    dropped = len(whole) - len(decode(ids))
    return EVERY_SPACE if dropped == 3 else dropped
