"""A model's tokenizer turns text into ids for prompts, ids into text for answers.

An `Encoder` (one class per file format) makes ids; everything else is the same for all
formats and comes from the encoder's `Vocabulary`.  Reads data, never runs code.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol, final

from mell_jax.grammar import TokenTable
from mell_jax.model_files.folder import open_folder
from mell_jax.text.hf_encoder import HfEncoder
from mell_jax.text.sentencepiece_encoder import SentencePieceEncoder
from mell_jax.text.spellings import Spellings
from mell_jax.text.vocabulary import Vocabulary


class Encoder(Protocol):
    """File formats differ in how they encode."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def reads_special_tokens(self) -> bool:
        """Tells whether a special token that is spelled out becomes its id."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


_NO_LETTER = "\ufdd0"  # of any language, and so of no vocabulary


@final
class Tokenizer:
    """Turns text into token ids and back; holds no state between calls."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._spellings = Spellings(encoder.vocabulary)
        self._before, self._after = _find_around(encoder)
        unknown = encoder.encode(_NO_LETTER, add_special_tokens=False)
        ends = {encoder.vocabulary.bos_id, encoder.vocabulary.eos_id}
        self._control_ids = self.special_ids - (set(unknown) - ends)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._encoder.vocabulary

    @property
    def vocab_size(self) -> int:
        """Returns one more than the largest id."""
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
        """Tells whether a special token that is spelled out becomes its id."""
        return self._encoder.reads_special_tokens

    @property
    def spellings(self) -> Spellings:
        """Returns those of the special tokens."""
        return self._spellings

    def find_control_token(
        self, ids: Sequence[int], *, others: Collection[int] = ()
    ) -> int | None:
        """Returns the first special token of a prompt that its text alone would not
        have.

        The tokenizer's own beginning of a text may be there, and the token that stands
        for letters without one.

        Args:
            ids: of the prompt.
            others: tokens that are special to the model and not to its tokenizer.
        """
        count = len(self._before)
        start = count if list(ids[:count]) == self._before else 0
        control = self._control_ids.union(others)
        return next((i for i in ids[start:] if i in control), None)

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
        """Returns the ids of `text`, with the tokenizer's own special tokens around
        them.

        Raises:
            ValueError: `text` has an unpaired surrogate.
        """
        _count_utf8_bytes(text)
        return self._encoder.encode(text, add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Encodes like `encode`, but special tokens that are spelled out stay letters.

        Raises:
            ValueError: `text` has an unpaired surrogate, or becomes a special token
                all the same: a tokenizer may change letters before it looks for them.
        """
        _count_utf8_bytes(text)
        inside = self._encode_inside(text)
        ids = self._before + inside
        if (control := self.find_control_token(ids)) is not None:
            raise ValueError(f"the text becomes the special token {control}")
        return ids + self._after if add_special_tokens else inside

    def token_table(self, *, end_ids: Sequence[int], vocab_size: int) -> TokenTable:
        """Returns what grammars have to know of the tokens.

        Args:
            end_ids: tokens that end a text.
            vocab_size: of the model.
        """
        return TokenTable(
            token_bytes=self.vocabulary.token_bytes[:vocab_size],
            special_ids=frozenset(i for i in self.special_ids if i < vocab_size),
            end_ids=tuple(end_ids),
            vocab_size=vocab_size,
            encode=self._encode_inside,
        )

    def _encode_inside(self, text: str) -> list[int]:
        """The ids of a text that spells out special tokens and means letters."""
        pieces = self._spellings.cut(text) if self.reads_special_tokens else [text]
        return [
            token
            for piece in pieces
            for token in self._encoder.encode(piece, add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of `ids`, with U+FFFD for bytes that are no UTF-8.

        Raises:
            ValueError: an id is negative.
        """
        return self.vocabulary.decode(ids, skip_special_tokens=skip_special_tokens)


def load_tokenizer(model: Path) -> Tokenizer:
    """Returns the tokenizer of a model: `tokenizer.json`, else `tokenizer.model`.

    Args:
        model: a directory that has the file, or a GGUF file, inside or beside which
            it is.

    Raises:
        ValueError: neither file is there, or it cannot be read; names the path.
    """
    directory = open_folder(model)
    json_path = directory / "tokenizer.json"
    model_path = directory / "tokenizer.model"
    if json_path.is_file():
        return Tokenizer(HfEncoder(directory))
    if model_path.is_file():
        return Tokenizer(SentencePieceEncoder(directory))
    raise ValueError(
        f"no tokenizer in {directory}: looked for {json_path.name} and "
        f"{model_path.name}; copy one there from where the model came from"
    )


def has_tokenizer(directory: Path) -> bool:
    """Tells whether `load_tokenizer` would find a file in `directory`."""
    return any(
        (directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model")
    )


def _find_around(encoder: Encoder) -> tuple[list[int], list[int]]:
    """Returns what the tokenizer puts before and after a text, found by trying."""
    for probe in ("a", "0", _NO_LETTER):
        inner = encoder.encode(probe, add_special_tokens=False)
        whole = encoder.encode(probe, add_special_tokens=True)
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            end = start + len(inner)
            if whole[start:end] == inner:
                return whole[:start], whole[end:]
    return encoder.encode("", add_special_tokens=True), []


def _count_utf8_bytes(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has an unpaired surrogate, U+{ord(text[error.start]):04X}, at "
            f"character {error.start}; send valid Unicode"
        ) from error
