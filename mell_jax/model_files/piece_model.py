"""Writes a SentencePiece model, the protocol buffer that `tokenizer.model` holds.

Only what a vocabulary with scores needs, in protobuf's wire format: the generated
module of the package `sentencepiece` asks for a newer protobuf than others allow.
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

_BPE = 2
_MODEL_PIECE, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_TRAINER_TYPE, _TRAINER_BYTES, _TRAINER_UNKNOWN_ID, _TRAINER_UNKNOWN = 3, 35, 40, 45
_NORMALIZER_NAME, _NORMALIZER_PREFIX, _NORMALIZER_EXTRA = 1, 3, 4
_VARINT, _LENGTH, _FLOAT = 0, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece is an entry of the vocabulary."""

    text: str
    score: float
    type_number: int


def write_piece_model(
    pieces: Iterable[Piece],
    *,
    unknown_id: int,
    unknown: str,
    has_bytes: bool,
    has_prefix: bool,
    removes_spaces: bool,
) -> bytes:
    """Returns a model that merges the pair of the best score first (BPE).

    Args:
      pieces: in the order of their ids.
      unknown_id: of the piece for what has no other.
      unknown: its text.
      has_bytes: letters without a piece are spelled by pieces of single bytes.
      has_prefix: a space is put before a text.
      removes_spaces: spaces at the ends, and doubled ones, are taken away.
    """
    trainer = (
        _number(_TRAINER_TYPE, _BPE)
        + _number(_TRAINER_BYTES, has_bytes)
        + _number(_TRAINER_UNKNOWN_ID, unknown_id)
        + _bytes(_TRAINER_UNKNOWN, unknown.encode())
    )
    normalizer = (
        _bytes(_NORMALIZER_NAME, b"identity")
        + _number(_NORMALIZER_PREFIX, has_prefix)
        + _number(_NORMALIZER_EXTRA, removes_spaces)
    )
    return (
        b"".join(_bytes(_MODEL_PIECE, _piece(piece)) for piece in pieces)
        + _bytes(_MODEL_TRAINER, trainer)
        + _bytes(_MODEL_NORMALIZER, normalizer)
    )


def _piece(piece: Piece) -> bytes:
    return (
        _bytes(_PIECE_TEXT, piece.text.encode())
        + _varint(_PIECE_SCORE << 3 | _FLOAT)
        + struct.pack("<f", piece.score)
        + _number(_PIECE_TYPE, piece.type_number)
    )


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(int(value))


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
