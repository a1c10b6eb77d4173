"""Encodes with the Rust `tokenizers` package, from a `tokenizer.json`.

Two families of decoders are read into a `Vocabulary`: byte-level ones (GPT-2, Llama 3,
Qwen, DeepSeek), whose tokens spell bytes as letters, and SentencePiece-like ones
(Llama 2, Mistral, Gemma), whose tokens are text with single bytes as `<0xE2>`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import final

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from mell_jax.model_files.folder import File, Folder
from mell_jax.text.special_tokens import (
    SpecialTokens,
    missing_token,
    read_json_object,
    read_special_tokens,
)
from mell_jax.text.vocabulary import (
    Vocabulary,
    find_leading_spaces,
    find_longest_token_bytes,
)

MAX_GROWTH = 64
"""Of a text while it is normalized; real models replace a space by one letter."""
_WHOLE_TOKEN_DECODERS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@final
class HfEncoder:
    """Encodes text by the rules of a `tokenizer.json`; truncation and padding are off.

    A special token that is spelled out in the text becomes its id, as chat templates
    need it.
    """

    def __init__(self, directory: Folder) -> None:
        """Reads the file and those beside it.

        Raises:
            ValueError: the file is no tokenizer, or turns ids into text by rules that
                are not known to work token by token.
        """
        path = directory / "tokenizer.json"
        spec = read_json_object(path)
        _check_growth(spec.get("normalizer"), path=path)
        decoder_types = _decoder_types(spec.get("decoder"), path=path)
        try:
            self._rust = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        except Exception as error:  # the Rust package raises this very class
            raise ValueError(f"{path}: not a usable tokenizer: {error}") from error
        self._rust.no_truncation()
        self._rust.no_padding()
        self._vocabulary = _read_vocabulary(
            self._rust,
            decoder_types=decoder_types,
            named=read_special_tokens(directory),
            directory=directory,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def reads_special_tokens(self) -> bool:
        return True

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of `text`; special tokens are added as the file says.

        Other threads run meanwhile: of the package's calls only batches let them.

        Raises:
            ValueError: the file's own rules cannot deal with the text.
        """
        try:
            batch = self._rust.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's is no Exception
                raise
            raise ValueError(
                f"the rules of the tokenizer fail on this text: {error!s:.200}"
            ) from error
        return batch[0].ids


def _check_growth(normalizer: object, *, path: File) -> None:
    """Refuses replacements that, one after the other, make a text very much longer."""
    growth = 1
    for step in _steps(normalizer):
        if step.get("type") == "Replace":
            pattern = step.get("pattern")
            old = pattern.get("String") if isinstance(pattern, dict) else None
            width = max(len(old), 1) if isinstance(old, str) else 1
            growth *= max(-(-len(str(step.get("content"))) // width), 1)
    if not (growth <= MAX_GROWTH):
        raise ValueError(
            f"{path}: its normalizer may make a text {growth} times as long, at most "
            f"{MAX_GROWTH} times is taken; shorten what its Replace steps put in"
        )


def _steps(normalizer: object) -> Iterator[dict[str, object]]:
    if isinstance(normalizer, dict):
        inner = normalizer.get("normalizers")
        if isinstance(inner, list):
            for step in inner:
                yield from _steps(step)
        else:
            yield normalizer


def _decoder_types(decoder: object, *, path: File) -> frozenset[str]:
    """The types of steps in a decoder, {"ByteLevel"} or some that keep tokens whole."""
    steps = [decoder]
    if isinstance(decoder, dict) and isinstance(decoder.get("decoders"), list):
        steps = decoder["decoders"]
    types = frozenset(_step_type(step) for step in steps)
    if types == {"ByteLevel"} or types <= _WHOLE_TOKEN_DECODERS:
        return types
    raise ValueError(
        f"{path}: text cannot be made token by token with the decoder "
        f"{sorted(types)}; use ByteLevel alone, or some of "
        f"{sorted(_WHOLE_TOKEN_DECODERS)}"
    )


def _step_type(step: object) -> str:
    if not isinstance(step, dict):
        return "none"
    if step.get("type") == "Strip" and step.get("stop"):
        return "Strip at the end"  # would take back text that was final
    return str(step.get("type"))


def _read_vocabulary(
    rust: tokenizers.Tokenizer,
    *,
    decoder_types: frozenset[str],
    named: SpecialTokens,
    directory: Folder,
) -> Vocabulary:
    id_to_token = {i: token for token, i in rust.get_vocab().items()}
    if decoder_types == {"ByteLevel"}:
        bytes_by_id = _spelled_bytes(id_to_token)
        leading_spaces = 0
    else:
        has_byte_tokens = "ByteFallback" in decoder_types
        texts, bytes_by_id = _whole_tokens(
            rust, id_to_token=id_to_token, has_byte_tokens=has_byte_tokens
        )
        leading_spaces = find_leading_spaces(texts, decode=rust.decode)
    size = max(id_to_token, default=-1) + 1
    token_bytes = tuple(bytes_by_id.get(i, b"") for i in range(size))
    bos_id = _find_id(rust, key="bos_token", named=named.bos, directory=directory)
    eos_id = _find_id(rust, key="eos_token", named=named.eos, directory=directory)
    added = rust.get_added_tokens_decoder()
    special_ids = {i for i, token in added.items() if token.special}
    special_ids.update(i for i in (bos_id, eos_id) if i is not None)
    return Vocabulary(
        token_bytes=token_bytes,
        special_ids=frozenset(special_ids),
        bos_id=bos_id,
        eos_id=eos_id,
        leading_spaces=leading_spaces,
        longest_token_bytes=find_longest_token_bytes(
            token_bytes, normalize=_normalize_of(rust)
        ),
    )


def _find_id(
    rust: tokenizers.Tokenizer, *, key: str, named: str | None, directory: Folder
) -> int | None:
    if named is None:
        return None
    found = rust.token_to_id(named)
    if found is None:
        raise missing_token(key, named, directory=directory, where="tokenizer.json")
    return found


def _normalize_of(rust: tokenizers.Tokenizer) -> Callable[[str], str] | None:
    return None if rust.normalizer is None else rust.normalizer.normalize_str


def _spelled_bytes(id_to_token: Mapping[int, str]) -> dict[int, bytes]:
    """Bytes of byte-level tokens: "Ġcaf" -> b" caf"; other tokens are plain text.

    The alphabet gives printable bytes their own letter and the rest, in order, the
    letters from U+0100 on.
    """
    letters = sorted(ByteLevel.alphabet())
    byte_of = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    rest = sorted(set(range(256)) - set(byte_of.values()))
    byte_of.update(zip(letters[len(byte_of) :], rest, strict=True))
    return {
        i: bytes(byte_of[letter] for letter in token)
        if all(letter in byte_of for letter in token)
        else token.encode("utf-8")
        for i, token in id_to_token.items()
    }


def _whole_tokens(
    rust: tokenizers.Tokenizer,
    *,
    id_to_token: Mapping[int, str],
    has_byte_tokens: bool,
) -> tuple[dict[int, str], dict[int, bytes]]:
    """Texts in the middle of a text (no single bytes), and bytes, of every token."""
    byte_ids = {
        i: bytes.fromhex(match[1])
        for i, token in id_to_token.items()
        if has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(token))
    }
    others = [i for i in id_to_token if i not in byte_ids]

    def decode(ids: list[int]) -> str:
        return rust.decode(ids, skip_special_tokens=False)

    before = next((i for i in others if decode([i]).strip()), None)
    if before is None:
        return {}, byte_ids
    start = len(decode([before]))
    texts = {i: decode([before, i])[start:] for i in others}
    return texts, byte_ids | {i: text.encode("utf-8") for i, text in texts.items()}
