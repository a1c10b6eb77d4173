"""The tokenizer of a model: text to ids for prompts, ids to text for answers.

An `Encoder` (one class per file format) makes ids; everything else is the same for all
formats and comes from the encoder's `Vocabulary`.  Reads data, never runs code.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, final

from mell_jax.text.hf_encoder import HfEncoder
from mell_jax.text.sentencepiece_encoder import SentencePieceEncoder
from mell_jax.text.vocabulary import Vocabulary


class Encoder(Protocol):
    """What differs between file formats."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def reads_special_tokens(self) -> bool:
        """Whether a special token that is spelled out becomes its id."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


@final
class Tokenizer:
    """Turns text into token ids and back; holds no state between calls."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def vocabulary(self) -> Vocabulary:
        return self._encoder.vocabulary

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self.vocabulary.token_bytes)

    @property
    def bos_id(self) -> int | None:
        return self.vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        return self.vocabulary.eos_id

    @property
    def special_ids(self) -> frozenset[int]:
        return self.vocabulary.special_ids

    @property
    def longest_token_bytes(self) -> int:
        return self.vocabulary.longest_token_bytes

    @property
    def reads_special_tokens(self) -> bool:
        """Whether a special token that is spelled out in a text becomes its id."""
        return self._encoder.reads_special_tokens

    def check_prompt_bytes(self, text: str, *, max_tokens: int) -> None:
        """Refuses, without tokenizing, a text that is too long in any tokenization.

        Raises:
            ValueError: `text` has more bytes than `max_tokens` of the longest token,
                or an unpaired surrogate.
        """
        num_bytes = _count_utf8_bytes(text)
        limit_bytes = max_tokens * self.longest_token_bytes
        if not (num_bytes <= limit_bytes):
            raise ValueError(
                f"the prompt has {num_bytes} bytes, but {max_tokens} tokens of at most "
                f"{self.longest_token_bytes} bytes hold {limit_bytes}; shorten it"
            )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`, with the tokenizer's own special tokens around them.

        Raises:
            ValueError: `text` has an unpaired surrogate.
        """
        _count_utf8_bytes(text)
        return self._encoder.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`, with U+FFFD for bytes that are no UTF-8.

        Raises:
            ValueError: an id is negative.
        """
        return self.vocabulary.decode(ids, skip_special_tokens=skip_special_tokens)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer in a model's directory: `tokenizer.json`, else `tokenizer.model`.

    Raises:
        ValueError: neither file is there, or it cannot be read; names the path.
    """
    json_path = directory / "tokenizer.json"
    model_path = directory / "tokenizer.model"
    if json_path.is_file():
        return Tokenizer(HfEncoder(json_path))
    if model_path.is_file():
        return Tokenizer(SentencePieceEncoder(model_path))
    raise ValueError(
        f"no tokenizer in {directory}: looked for {json_path.name} and "
        f"{model_path.name}; copy one there from where the model came from"
    )


def _count_utf8_bytes(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has an unpaired surrogate, U+{ord(text[error.start]):04X}, at "
            f"character {error.start}; send valid Unicode"
        ) from error
