"""Words of llguidance's Lark: literals, special tokens, free text."""

import json
import re
from collections.abc import Iterable

Word = str | int
"""A text, or the id of a special token, which no text can name."""
FREE_TEXT = r"/(.|\n)*/"


def write(words: Iterable[Word]) -> str:
    """Returns texts and special tokens one after the other."""
    return " ".join(_word(word) for word in words if word != "")


def free_text_until(ending: Word) -> tuple[str, str]:
    """Returns the attribute and the body of a rule: any text up to an ending.

    The rule has the first place where the ending is, and ends there.
    """
    attribute = "" if isinstance(ending, int) else "[lazy]"
    return attribute, f"{FREE_TEXT} {write([ending])}"


def regex(pattern: str) -> str:
    """Returns a regular expression as it is written in Lark: /.../."""
    return (
        "/"
        + re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n")
        + "/"
    )


def _word(word: Word) -> str:
    return (
        f"<[{word}]>" if isinstance(word, int) else json.dumps(word, ensure_ascii=False)
    )
