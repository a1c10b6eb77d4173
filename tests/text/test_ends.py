"""Which token ends a text, read without loading the tokenizer."""

import json
from pathlib import Path

import pytest

from mell_jax.text.ends import find_eos_ids
from mell_jax.text.tokenizer import load_tokenizer

END = "<|im_end|>"


def write(directory: Path, **files: object) -> None:
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({}, ()),
        ({"tokenizer_config": {"eos_token": END}}, ()),  # without a tokenizer
        (
            {
                "tokenizer_config": {
                    "eos_token": {"content": END},
                    "added_tokens_decoder": {"7": {"content": END}},
                }
            },
            (7,),
        ),
        (
            {"special_tokens_map": {"eos_token": END}, "added_tokens": {END: 8}},
            (8,),
        ),
        (
            {
                "tokenizer_config": {"eos_token": END},
                "tokenizer": {"added_tokens": [{"id": 9, "content": END}]},
            },
            (9,),
        ),
        (
            {
                "tokenizer_config": {"eos_token": END},
                "tokenizer": {"model": {"vocab": {"a": 0, END: 10}}},
            },
            (10,),
        ),
        (
            {
                "tokenizer_config": {"eos_token": END},
                "tokenizer": {"model": {"vocab": [["<pad>", 0.0], [END, -1.0]]}},
            },
            (1,),
        ),
    ],
)
def test_the_end_is_found_wherever_a_file_says_it(
    tmp_path: Path, files: dict[str, object], ids: tuple[int, ...]
) -> None:
    write(tmp_path, **files)
    assert find_eos_ids(tmp_path) == ids


def test_it_is_what_the_loaded_tokenizer_says(
    byte_level_dir: Path, byte_fallback_dir: Path, sentencepiece_dir: Path
) -> None:
    for directory in (byte_level_dir, byte_fallback_dir, sentencepiece_dir):
        own = load_tokenizer(directory).eos_id
        assert find_eos_ids(directory) == (() if own is None else (own,))
    assert find_eos_ids(sentencepiece_dir) == (2,)  # which no other file names


def test_an_end_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer_config={"eos_token": END},
        tokenizer={"model": {"vocab": {"a": 0}}},
    )
    with pytest.raises(ValueError, match=r"eos_token is '<\|im_end\|>', which is no"):
        find_eos_ids(tmp_path)
    write(tmp_path, added_tokens={END: "x"})
    with pytest.raises(ValueError, match="must map tokens to ids"):
        find_eos_ids(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer_config={"eos_token": END},
        tokenizer={"model": {"vocab": {"a": 0, END: 10}}},
    )
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert find_eos_ids(tmp_path) == (10,)
