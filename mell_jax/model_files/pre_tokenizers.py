"""Knows how byte-level tokenizers cut a text into words before they merge.

A GGUF file has only a name for it, `tokenizer.ggml.pre`. The patterns are those of the
models' own `tokenizer.json`, "default" is llama.cpp's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}{_END}"
_QWEN_2 = rf"{_SHORT}|{_WORD}|\p{{N}}|{_MARKS}{_END}"


def _mixed(*, short: str, digits: str) -> str:
    """Words are cut where a capital follows small letters."""
    before, slashes = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    small, large = f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*"
    words = f"{before}{small}{short}|{before}{large}{short}"
    return f"{words}|{digits}|{slashes}{_END}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """Patterns are tried one after the other; what matches is a word of its own.

    Attributes:
      patterns: in Oniguruma's syntax, which the package `tokenizers` reads.
      has_bos: whether a text begins with the token for it, if the file does not say.
      ignores_merges: whether a word that is a token is that token, without merging.
      normalizer: what is done to the text before.
    """

    patterns: tuple[str, ...]
    has_bos: bool = False
    ignores_merges: bool = False
    normalizer: str | None = None

    def steps(self) -> dict[str, Any]:
        """Returns what a `tokenizer.json` calls `pre_tokenizer`."""
        splits: list[dict[str, Any]] = [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            }
            for pattern in self.patterns
        ]
        as_bytes = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        return {"type": "Sequence", "pretokenizers": [*splits, as_bytes]}


_LIKE_LLAMA_3 = PreTokenizer(patterns=(_LLAMA_3,), has_bos=True, ignores_merges=True)
_LIKE_STARCODER = PreTokenizer(patterns=(r"\p{N}", _GPT_2))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer(
        patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")
    ),
    "gpt-2": PreTokenizer(patterns=(_GPT_2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "codeshell", "exaone"), _LIKE_STARCODER
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LIKE_LLAMA_3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer(patterns=(_LLAMA_3,))),
    "qwen2": PreTokenizer(patterns=(_QWEN_2,), normalizer="NFC"),
    **dict.fromkeys(
        ("deepseek-r1-qwen", "stablelm2"), PreTokenizer(patterns=(_QWEN_2,))
    ),
    "deepseek-coder": PreTokenizer(
        patterns=(
            *(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+"),
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            r"\p{N}",
        )
    ),
    "tekken": PreTokenizer(
        patterns=(_mixed(short="", digits=r"\p{N}"),), has_bos=True, ignores_merges=True
    ),
    "gpt-4o": PreTokenizer(
        patterns=(_mixed(short=f"{_SHORT}?", digits=r"\p{N}{1,3}"),)
    ),
}
"""By `tokenizer.ggml.pre`."""
