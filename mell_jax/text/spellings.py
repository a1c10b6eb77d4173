"""Finds where a text spells control tokens, "<|im_end|>", and cuts it open there.

    "hi<|im_end|>"  ->  "hi<" | "|im_end|>"

Pieces that are tokenized one by one hold no control token. Looking for them takes a
time that hardly depends on how many there are (Gemma has thousands).
"""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import final

from mell_jax.text.vocabulary import Vocabulary


@final
class Spellings:
    """They are those of one vocabulary, but for control tokens of one letter."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        spelled = {
            vocabulary.decode((i,), skip_special_tokens=False): i
            for i in vocabulary.special_ids
        }
        ids = {text: i for text, i in spelled.items() if len(text) > 1}
        self._ids: Mapping[str, int] = MappingProxyType(ids)
        self._whole = re.compile(f"({_any_of(ids)})" if ids else r"(?!)()")
        starts = "".join(re.escape(text[0]) for text in ids)
        rests = _any_of({text[1:] for text in ids})
        # Cuts "[|im_end|>" too, for speed: a set of letters is searched for quickly.
        self._first = re.compile(f"[{starts}](?={rests})" if ids else r"(?!)")
        self._beginnings = {text[:k] for text in ids for k in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    @property
    def ids(self) -> Mapping[str, int]:
        """Returns those of control tokens, by how they are spelled."""
        return self._ids

    def split(self, text: str) -> list[str]:
        """Returns control tokens and what is between them; joined, it is the text."""
        return [part for part in self._whole.split(text) if part]

    def cut(self, text: str) -> list[str]:
        """Returns pieces, no control token whole in any; joined, they are the text."""
        ends = [match.end() for match in self._first.finditer(text)]
        starts = [0, *ends]
        return [text[i:j] for i, j in zip(starts, [*ends, len(text)], strict=True)]

    def may_go_on(self, text: str) -> bool:
        """Tells whether a text's end begins a control token that others could end."""
        most = min(self._longest, len(text))
        tails = (text[len(text) - k :] for k in range(1, most + 1))
        return any(tail in self._beginnings for tail in tails)


def _any_of(words: Collection[str]) -> str:
    """A pattern of the longest word that is there: {"ab", "ac"}  ->  "a(?:b|c)".

    Every letter is looked at once, whatever the number of words.
    """
    rests: dict[str, list[str]] = {}
    for word in words:
        if word:
            rests.setdefault(word[0], []).append(word[1:])
    parts = [re.escape(first) + _any_of(rest) for first, rest in rests.items()]
    pattern = parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
    return f"(?:{pattern})?" if rests and "" in words else pattern if rests else ""
