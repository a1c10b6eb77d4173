"""Makes the tokenizer of a GGUF file into the files that other formats have.

    tokenizer.ggml.model   gpt2 -> tokenizer.json     llama -> tokenizer.model
    ... bos_token_id, add_bos_token ...             -> tokenizer_config.json
    tokenizer.chat_template                         -> chat_template.jinja

The rest of the program reads those, and does not know where they come from.
"""

import json
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NoReturn

from mell_jax.model_files.gguf_file import GgufError, GgufHead, Value
from mell_jax.model_files.piece_model import Piece, write_piece_model
from mell_jax.model_files.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

MODEL = "tokenizer.ggml.model"
TOKENS = "tokenizer.ggml.tokens"
TEMPLATE = "tokenizer.chat_template"
END_KEYS = tuple(f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
"""Tokens that end a text, a turn or a message: a model writes nothing after any."""
BYTE_LEVEL, SENTENCE_PIECE = "gpt2", "llama"
_WAY_OUT = "put the model's own tokenizer.json (and tokenizer_config.json) beside it"

Maker = Callable[[], bytes]


class TokenType(IntEnum):
    """The types of tokens have the numbers that SentencePiece gives them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def makers_of(head: GgufHead) -> dict[str, Maker]:
    """Returns how to make each file that there is something for."""
    makers: dict[str, Maker] = {}
    if MODEL in head.metadata:
        is_pieces = head.metadata[MODEL] == SENTENCE_PIECE
        make = make_pieces if is_pieces else make_json
        name = "tokenizer.model" if is_pieces else "tokenizer.json"
        makers[name] = lambda: make(head)
        makers["tokenizer_config.json"] = lambda: make_config(head)
    if isinstance(template := head.metadata.get(TEMPLATE), str):
        makers["chat_template.jinja"] = template.encode
    return makers


def end_ids(head: GgufHead) -> tuple[int, ...]:
    """Returns the tokens that end a text, by the file."""
    found = (_id(head, key) for key in END_KEYS)
    return tuple(dict.fromkeys(number for number in found if number is not None))


def bos_id(head: GgufHead) -> int | None:
    """Returns the token that begins a text, by the file."""
    return _id(head, "tokenizer.ggml.bos_token_id")


def make_config(head: GgufHead) -> bytes:
    """Returns a `tokenizer_config.json`.

    Raises:
      GgufError: a token that begins or ends a text is none of the vocabulary.
    """
    tokens = _texts(head, TOKENS)
    values: dict[str, Any] = {}
    for kind in ("bos", "eos"):
        number = _id(head, f"tokenizer.ggml.{kind}_token_id")
        if number is not None:
            if not (0 <= number < len(tokens)):
                _fail(
                    head,
                    f"tokenizer.ggml.{kind}_token_id is {number}, outside the "
                    f"vocabulary of {len(tokens)}",
                )
            values[f"{kind}_token"] = tokens[number]
        flag = head.metadata.get(f"tokenizer.ggml.add_{kind}_token")
        if isinstance(flag, bool):
            values[f"add_{kind}_token"] = flag
    return json.dumps(values).encode()


def make_json(head: GgufHead) -> bytes:
    """Returns the `tokenizer.json` of a byte-level vocabulary.

    Raises:
      GgufError: the kind of tokenizer is not known, or its parts do not fit together.
    """
    kind = head.metadata[MODEL]
    if kind != BYTE_LEVEL:
        _fail(head, f"{MODEL} is {kind!r:.60}, which is not known here; {_WAY_OUT}")
    pre = _pre_tokenizer(head)
    tokens, types = _vocabulary(head)
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for n, token in enumerate(tokens) if ids[token] != n)
        _fail(head, f"{TOKENS} has {twice[:60]!r} twice; {_WAY_OUT}")
    spec = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": tokens[number],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != TokenType.USER_DEFINED,
            }
            for number, kind in enumerate(types)
            if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
        ],
        "normalizer": pre.normalizer and {"type": pre.normalizer},
        "pre_tokenizer": pre.steps(),
        "post_processor": _around(head, pre),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": [_merge(head, merge) for merge in _texts(head, _MERGES)],
            "ignore_merges": pre.ignores_merges,
        },
    }
    return json.dumps(spec, ensure_ascii=False).encode()


def make_pieces(head: GgufHead) -> bytes:
    """Returns the `tokenizer.model` of a vocabulary with scores.

    Raises:
      GgufError: its parts do not fit together.
    """
    tokens, types = _vocabulary(head)
    scores = head.metadata.get("tokenizer.ggml.scores")
    if not (isinstance(scores, list) and len(scores) == len(tokens)):
        _fail(head, f"tokenizer.ggml.scores must be {len(tokens)} numbers; {_WAY_OUT}")
    if types.count(TokenType.UNKNOWN) != 1:
        _fail(head, f"one token must be of type 2, the unknown one; {_WAY_OUT}")
    unknown_id = types.index(TokenType.UNKNOWN)
    return write_piece_model(
        (
            Piece(text=token, score=_score(head, score), type_number=kind)
            for token, kind, score in zip(tokens, types, scores, strict=True)
        ),
        unknown_id=unknown_id,
        unknown=tokens[unknown_id],
        has_bytes=TokenType.BYTE in types,
        has_prefix=_flag(head, "add_space_prefix", True),
        removes_spaces=_flag(head, "remove_extra_whitespaces", False),
    )


_MERGES = "tokenizer.ggml.merges"


def _fail(head: GgufHead, rule: str) -> NoReturn:
    raise GgufError(f"{head.path}: {rule}")


def _pre_tokenizer(head: GgufHead) -> PreTokenizer:
    key = "tokenizer.ggml.pre"
    name = head.metadata.get(key)
    if not isinstance(name, str):
        _fail(head, f"{key} is missing, so words cannot be told apart; {_WAY_OUT}")
    if name not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        _fail(head, f"{key} is {name[:60]!r}, known are {known}; {_WAY_OUT}")
    return PRE_TOKENIZERS[name]


def _around(head: GgufHead, pre: PreTokenizer) -> dict[str, Any] | None:
    """Returns what is put around a text, as a `tokenizer.json` says it."""
    tokens = _texts(head, TOKENS)
    ids = {
        kind: _id(head, f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")
    }
    wanted = {
        "bos": _flag(head, "add_bos_token", pre.has_bos),
        "eos": _flag(head, "add_eos_token", False),
    }
    named = {
        kind: (number, tokens[number])
        for kind, number in ids.items()
        if wanted[kind] and number is not None and 0 <= number < len(tokens)
    }
    if not named:
        return None
    text = {"Sequence": {"id": "A", "type_id": 0}}
    parts = {
        kind: [{"SpecialToken": {"id": token, "type_id": 0}}]
        for kind, (_, token) in named.items()
    }
    single = [*parts.get("bos", []), text, *parts.get("eos", [])]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for number, token in named.values()
        },
    }


def _vocabulary(head: GgufHead) -> tuple[list[str], list[TokenType]]:
    tokens = _texts(head, TOKENS)
    key = "tokenizer.ggml.token_type"
    found = head.metadata.get(key)
    types = found if isinstance(found, list) else []
    known = {int(kind): kind for kind in TokenType}
    if len(types) != len(tokens) or not set(known).issuperset(types):
        _fail(
            head,
            f"{key} must give each of the {len(tokens)} tokens a type from 1 to 6; "
            f"{_WAY_OUT}",
        )
    return tokens, [known[int(kind)] for kind in types]


def _score(head: GgufHead, score: Value) -> float:
    if not isinstance(score, float) or not (-1e30 <= score <= 1e30):
        _fail(head, f"tokenizer.ggml.scores has {score!r:.60}, no finite number")
    return score


def _merge(head: GgufHead, merge: str) -> list[str]:
    """The two parts: "Ġ t" -> ["Ġ", "t"]; a space may begin the first one."""
    at = merge.find(" ", 1)
    if at < 0:
        _fail(head, f"{_MERGES} has {merge[:60]!r}, which is not two tokens")
    return [merge[:at], merge[at + 1 :]]


def _texts(head: GgufHead, key: str) -> list[str]:
    found: Value | None = head.metadata.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        _fail(head, f"{key} must be a list of strings; {_WAY_OUT}")
    return [str(text) for text in found]


def _id(head: GgufHead, key: str) -> int | None:
    found = head.metadata.get(key)
    if found is not None and type(found) is not int:
        _fail(head, f"{key} must be an integer, found {found!r:.60}")
    return found


def _flag(head: GgufHead, name: str, default: bool) -> bool:
    key = f"tokenizer.ggml.{name}"
    found: Mapping[str, Value] | Value = head.metadata.get(key, default)
    if not isinstance(found, bool):
        _fail(head, f"{key} must be true or false, found {found!r:.60}")
    return found
