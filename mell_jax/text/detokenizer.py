"""Turns one stream's token ids into text as they come.

A character may be spread over several tokens; its bytes are held back until it is
complete (at most 3 bytes), so that text once returned never changes.
"""

import codecs
from collections.abc import Iterable
from typing import final

from mell_jax.text.tokenizer import Tokenizer


@final
class Detokenizer:
    """Makes one stream's text: what `add` and `flush` return, joined, is `decode`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool,
        continues_text: bool = False,
        kept_ids: frozenset[int] = frozenset(),
    ) -> None:
        """A stream at its beginning.

        Args:
            tokenizer: knows the tokens.
            skip_special_tokens: whether special tokens are left out of the text.
            continues_text: keep the space that a SentencePiece tokenizer drops where
                a text begins, because the text follows a prompt.
            kept_ids: special tokens that are in the text all the same.
        """
        self._vocabulary = tokenizer.vocabulary
        special = self._vocabulary.special_ids - kept_ids
        self._skipped = special if skip_special_tokens else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._spaces_to_drop = 0 if continues_text else self._vocabulary.leading_spaces

    def add(self, ids: Iterable[int]) -> str:
        """Returns the text that `ids` complete.

        Raises:
            ValueError: an id is negative.
        """
        joined = self._vocabulary.join(ids, but=self._skipped)
        return self._drop_leading_spaces(self._utf8.decode(joined))

    def flush(self) -> str:
        """Returns U+FFFD for a character that was never completed, else nothing."""
        return self._drop_leading_spaces(self._utf8.decode(b"", final=True))

    def _drop_leading_spaces(self, text: str) -> str:
        if self._spaces_to_drop == 0 or not text:
            return text
        num_spaces = len(text) - len(text.lstrip(" "))
        num_dropped = min(num_spaces, self._spaces_to_drop)
        kept = text[num_dropped:]
        self._spaces_to_drop = 0 if kept else self._spaces_to_drop - num_dropped
        return kept
