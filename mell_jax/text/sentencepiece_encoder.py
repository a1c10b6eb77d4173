"""Encodes with the `sentencepiece` package, from a `tokenizer.model`."""

from pathlib import Path
from typing import final

from sentencepiece import SentencePieceProcessor

from mell_jax.text.special_tokens import SpecialTokens, read_special_tokens
from mell_jax.text.vocabulary import (
    Vocabulary,
    find_leading_spaces,
    find_longest_token_bytes,
)


@final
class SentencePieceEncoder:
    """Encodes text by a SentencePiece model.

    A control token that is spelled out in the text stays text.  The special tokens
    around a text are what `tokenizer_config.json` asks for, by default the beginning
    and no end.
    """

    def __init__(self, path: Path) -> None:
        """Reads the model and the files beside it.

        Raises:
            ValueError: the file is not a SentencePiece model, or a file beside it is
                not a JSON object.
        """
        named = read_special_tokens(path.parent)
        try:
            self._model = SentencePieceProcessor(model_proto=path.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{path} is no SentencePiece model: {error}") from error
        self._vocabulary = _read_vocabulary(self._model, named=named)
        bos_id, eos_id = self._vocabulary.bos_id, self._vocabulary.eos_id
        self._before = [] if bos_id is None or named.add_bos is False else [bos_id]
        self._after = [eos_id] if eos_id is not None and named.add_eos else []

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def reads_special_tokens(self) -> bool:
        return False

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of `text`, between the special tokens if asked for."""
        ids: list[int] = self._model.encode(text, out_type=int)
        return [*self._before, *ids, *self._after] if add_special_tokens else ids


def _read_vocabulary(
    model: SentencePieceProcessor, *, named: SpecialTokens
) -> Vocabulary:
    texts: dict[int, str] = {}  # of whole tokens, in the middle of a text
    bytes_by_id: dict[int, bytes] = {}
    before = model.unk_id()  # every model has it; it is written as " \u2047 "
    start = len(model.decode([before]))
    for i in range(model.get_piece_size()):
        if model.is_byte(i):
            bytes_by_id[i] = bytes.fromhex(model.id_to_piece(i)[3:5])  # "<0xE2>"
        elif model.is_control(i):
            bytes_by_id[i] = model.id_to_piece(i).encode("utf-8")
        else:
            texts[i] = model.decode([before, i])[start:]
            bytes_by_id[i] = texts[i].encode("utf-8")
    token_bytes = tuple(bytes_by_id[i] for i in range(len(bytes_by_id)))
    bos_id = _find_id(model, named=named.bos, default=model.bos_id())
    eos_id = _find_id(model, named=named.eos, default=model.eos_id())
    special_ids = {i for i in range(len(token_bytes)) if model.is_control(i)}
    special_ids.update(i for i in (bos_id, eos_id) if i is not None)
    return Vocabulary(
        token_bytes=token_bytes,
        special_ids=frozenset(special_ids),
        bos_id=bos_id,
        eos_id=eos_id,
        leading_spaces=find_leading_spaces(texts, decode=model.decode),
        longest_token_bytes=find_longest_token_bytes(
            # A control token that is spelled out in a prompt is not one token.
            (spelled for i, spelled in bytes_by_id.items() if not model.is_control(i)),
            normalize=model.normalize,
        ),
    )


def _find_id(
    model: SentencePieceProcessor, *, named: str | None, default: int
) -> int | None:
    """The id of the piece `named`, else `default`, where -1 means none."""
    if named is not None:
        named_id = model.piece_to_id(named)  # the unknown piece's id if there is none
        if model.id_to_piece(named_id) == named:
            return int(named_id)
    return default if default >= 0 else None
