"""Finds the token that ends a text in the files of a tokenizer, without loading it."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mell_jax.model_files.folder import File, Folder, MadeFile, open_folder
from mell_jax.text.special_tokens import (
    missing_token,
    read_added_tokens,
    read_json_object,
    read_special_tokens,
)


def find_eos_ids(model: Path) -> tuple[int, ...]:
    """Returns the id of the tokenizer's end of a text; none where no file names one.

    A `tokenizer.model` that stands alone names its own. A GGUF
    file is no such file: it has ids of its own (`read_spec`).

    Raises:
        ValueError: a file is not as it should be, or names a token that is nowhere.
    """
    directory = open_folder(model)
    if isinstance(directory / "tokenizer_config.json", MadeFile):
        return ()
    named = read_special_tokens(directory).eos
    if named is None:
        return _of_pieces(directory)
    added = read_added_tokens(directory)
    if named in added:
        return (added[named],)
    json_path = directory / "tokenizer.json"
    if json_path.is_file():
        return (_find_in_json(json_path, token=named, directory=directory),)
    model_path = directory / "tokenizer.model"
    if model_path.is_file():
        return (_find_in_pieces(model_path, token=named, directory=directory),)
    return ()  # a model without a tokenizer: ids in, ids out


def _find_in_json(path: File, *, token: str, directory: Folder) -> int:
    spec = read_json_object(path)
    added = spec.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and entry.get("content") == token:
            return int(entry["id"])
    model = spec.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict) and isinstance(vocabulary.get(token), int):
        return int(vocabulary[token])
    if isinstance(vocabulary, list):  # Unigram: [["<pad>", 0.0], ...]
        for number, entry in enumerate(vocabulary):
            if isinstance(entry, list) and entry[:1] == [token]:
                return number
    raise missing_token("eos_token", token, directory=directory, where=path.name)


def _of_pieces(directory: Folder) -> tuple[int, ...]:
    path = directory / "tokenizer.model"
    if (directory / "tokenizer.json").is_file() or not path.is_file():
        return ()
    found = int(_read_pieces(path).eos_id())
    return (found,) if found >= 0 else ()


def _read_pieces(path: File) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error


def _find_in_pieces(path: File, *, token: str, directory: Folder) -> int:
    model = _read_pieces(path)
    found = int(model.piece_to_id(token))
    if model.id_to_piece(found) != token:
        raise missing_token("eos_token", token, directory=directory, where=path.name)
    return found
