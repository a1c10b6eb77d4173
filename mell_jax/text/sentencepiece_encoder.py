"""Encodes with the `sentencepiece` package, from a `tokenizer.model`."""

from typing import final

from sentencepiece import SentencePieceProcessor

from mell_jax.model_files.folder import File, Folder
from mell_jax.text.special_tokens import (
    SpecialTokens,
    missing_token,
    read_added_tokens,
    read_special_tokens,
)
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

    def __init__(self, directory: Folder) -> None:
        """Reads the model and the files beside it.

        Raises:
            ValueError: the file is not a SentencePiece model, a file beside it is not
                a JSON object, or names tokens that the model does not have.
        """
        path = directory / "tokenizer.model"
        named = read_special_tokens(directory)
        try:
            self._model = SentencePieceProcessor(model_proto=path.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{path} is no SentencePiece model: {error}") from error
        _check_added(self._model, path=path, directory=directory)
        self._vocabulary = _read_vocabulary(
            self._model, named=named, directory=directory
        )
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


def _check_added(
    model: SentencePieceProcessor, *, path: File, directory: Folder
) -> None:
    """Refuses tokens added beside the model, which would read them as letters."""
    for token, number in read_added_tokens(directory).items():
        if not (
            0 <= number < model.get_piece_size() and model.id_to_piece(number) == token
        ):
            raise ValueError(
                f"{directory}: token {token[:60]!r} was added to {path.name} as id "
                f"{number}, which only a tokenizer.json can say; make one, for example "
                "with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )


def _read_vocabulary(
    model: SentencePieceProcessor, *, named: SpecialTokens, directory: Folder
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
    bos_id = _find_id(model, key="bos_token", named=named.bos, directory=directory)
    eos_id = _find_id(model, key="eos_token", named=named.eos, directory=directory)
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
    model: SentencePieceProcessor, *, key: str, named: str | None, directory: Folder
) -> int | None:
    """The id of the piece `named`; without a name the model's own, if it has one."""
    if named is None:
        default = model.bos_id() if key == "bos_token" else model.eos_id()
        return default if default >= 0 else None
    named_id = int(model.piece_to_id(named))  # the unknown piece's if there is none
    if model.id_to_piece(named_id) != named:
        raise missing_token(key, named, directory=directory, where="tokenizer.model")
    return named_id
