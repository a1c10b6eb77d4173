"""A mark stands where a text was cut, through whatever a template does with the text.

    "<" MARK "|im_end|>"  ->  tojson, upper, urlencode, repr  ->  found again

It is made anew for every prompt and nobody can guess it. Its digits stay as they are in
every filter; the letters around them, of use in no text, come back in a few spellings.
"""

import re
import secrets
from collections.abc import Iterable
from typing import final

_NUM_DIGITS = 20
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # of no use outside a program
_OPENS = r"(?:\ufdd0|\\ufdd0|%EF%B7%90)"  # as they are, in ASCII of JSON, in a URL
_CLOSES = r"(?:\ufdd1|\\ufdd1|%EF%B7%91)"


@final
class Mark:
    """A mark of one prompt."""

    def __init__(self) -> None:
        digits = make_digits()
        self._text = f"{_OPEN}{digits}{_CLOSE}"
        self._found = re.compile(f"{_OPENS}{digits}{_CLOSES}", re.IGNORECASE)

    def join(self, pieces: Iterable[str]) -> str:
        """Returns a text with a mark between pieces."""
        return self._text.join(pieces)

    def split(self, text: str) -> list[str]:
        """Returns the pieces of a text between marks."""
        return self._found.split(text)

    def remove(self, text: str) -> str:
        """Returns a text without its marks."""
        return self._found.sub("", text)


def make_digits() -> str:
    """Returns digits that nobody can guess."""
    return f"{secrets.randbelow(10**_NUM_DIGITS):0{_NUM_DIGITS}}"
