import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("the cat "))
IDS = st.lists(st.integers(0, 320), max_size=24)


@given(text=TEXTS)
def test_text_survives_the_way_to_ids_and_back(
    any_tokenizer: Tokenizer, text: str
) -> None:
    ids = any_tokenizer.encode(text.replace("▁", ""))
    assert any_tokenizer.decode(ids) == text.replace("▁", "")


@given(ids=IDS, skip=st.booleans())
def test_byte_level_text_is_what_the_rust_decoder_makes(
    byte_level: Tokenizer, byte_level_dir: Path, ids: list[int], skip: bool
) -> None:
    rust = tokenizers.Tokenizer.from_file(str(byte_level_dir / "tokenizer.json"))
    expected = rust.decode(ids, skip_special_tokens=skip)
    assert byte_level.decode(ids, skip_special_tokens=skip) == expected


@given(ids=st.lists(st.integers(0, 2) | st.integers(259, 263)), skip=st.booleans())
def test_byte_fallback_text_is_what_the_rust_decoder_makes_of_whole_tokens(
    byte_fallback: Tokenizer, byte_fallback_dir: Path, ids: list[int], skip: bool
) -> None:
    rust = tokenizers.Tokenizer.from_file(str(byte_fallback_dir / "tokenizer.json"))
    expected = rust.decode(ids, skip_special_tokens=skip)
    assert byte_fallback.decode(ids, skip_special_tokens=skip) == expected


@given(ids=st.lists(st.integers(3, 299), max_size=24))
def test_sentencepiece_text_is_what_the_library_makes_but_for_broken_characters(
    sentence_piece: Tokenizer, sentencepiece_dir: Path, ids: list[int]
) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_dir / "tokenizer.model")
    )
    # The library writes one U+FFFD per byte of a broken character, breaks a character
    # at a control token, and keeps the byte token <0x20> at the very beginning.
    expected = re.sub("\ufffd+", "\ufffd", model.decode([262, *ids]))
    ours = sentence_piece.decode([262, *ids])
    assert re.sub("\ufffd+", "\ufffd", ours) == expected


def test_special_tokens_are_known_from_the_files_beside_the_tokenizer(
    byte_level: Tokenizer, byte_fallback: Tokenizer, sentence_piece: Tokenizer
) -> None:
    assert (byte_level.bos_id, byte_level.eos_id) == (0, 1)
    assert byte_level.special_ids == {0, 1}
    assert (byte_fallback.bos_id, byte_fallback.eos_id) == (None, None)
    assert byte_fallback.special_ids == {0, 1, 2}
    assert (sentence_piece.bos_id, sentence_piece.eos_id) == (1, 2)
    assert sentence_piece.special_ids == {1, 2}


def test_special_tokens_are_written_only_when_asked_for(
    any_tokenizer: Tokenizer,
) -> None:
    end = max(any_tokenizer.special_ids)
    assert any_tokenizer.decode([end]) == ""
    assert any_tokenizer.decode([end], skip_special_tokens=False) == "</s>"


def test_a_byte_level_token_may_be_part_of_a_character(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("🦙")
    assert len(ids) == 4
    assert byte_level.decode(ids) == "🦙"
    assert byte_level.decode(ids[:3]) == "\ufffd"


def test_an_added_byte_level_token_is_plain_text(byte_level: Tokenizer) -> None:
    assert byte_level.decode([289]) == "  漢 "
    assert byte_level.encode("  漢 ") == [289]


def test_a_broken_character_does_not_break_its_neighbours(
    byte_fallback: Tokenizer,
) -> None:
    # bytes C3 A9 | FF | "hi": the Rust decoder would write three U+FFFD.
    assert byte_fallback.decode([3 + 0xC3, 3 + 0xA9, 3 + 0xFF, 263]) == "é\ufffd hi"


def test_one_leading_space_is_dropped_where_the_tokenizer_adds_one(
    byte_fallback: Tokenizer,
) -> None:
    assert byte_fallback.encode("hi hi", add_special_tokens=False) == [263, 263]
    assert byte_fallback.decode([263, 263]) == "hi hi"
    assert byte_fallback.decode([259, 263]) == " hi"
    assert byte_fallback.decode([259]) == ""


def test_every_leading_space_is_dropped_where_the_tokenizer_collapses_spaces(
    tmp_path: Path,
) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the cat sat", "on the mat"] * 4),
            model_writer=model,
            model_type="unigram",
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    tokenizer = load_tokenizer(tmp_path)
    model_file = str(tmp_path / "tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_file=model_file)
    space = library.piece_to_id("▁")
    ids = [space] * 5 + tokenizer.encode("the  cat", add_special_tokens=False)
    assert tokenizer.decode(ids) == library.decode(ids) == "the cat"
    # Its normalizer folds characters: four bytes of text may become one.
    assert tokenizer.longest_token_bytes == 4 * max(
        map(len, tokenizer.vocabulary.token_bytes)
    )


def test_sentencepiece_adds_the_special_tokens_that_the_config_asks_for(
    sentencepiece_dir: Path, tmp_path: Path
) -> None:
    model = (sentencepiece_dir / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    plain = load_tokenizer(tmp_path).encode("cat", add_special_tokens=False)
    assert load_tokenizer(tmp_path).encode("cat") == [1, *plain]
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"add_bos_token": false, "add_eos_token": true}')
    assert load_tokenizer(tmp_path).encode("cat") == [*plain, 2]
    config.write_text('{"eos_token": "<unk>"}')
    assert load_tokenizer(tmp_path).bos_id == 1
    assert load_tokenizer(tmp_path).eos_id == 0


@pytest.mark.parametrize("key", ["bos_token", "eos_token"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_token_that_is_named_and_nowhere_is_an_error(
    byte_level_dir: Path, sentencepiece_dir: Path, tmp_path: Path, name: str, key: str
) -> None:
    source = byte_level_dir if name.endswith("json") else sentencepiece_dir
    (tmp_path / name).write_bytes((source / name).read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({key: "<|im_end|>"}))
    with pytest.raises(ValueError, match=rf"{key} is '<\|im_end\|>', which is"):
        load_tokenizer(tmp_path)


def test_tokens_added_to_a_sentencepiece_model_are_refused(
    sentencepiece_dir: Path, tmp_path: Path
) -> None:
    """It would read them as letters: not the tokenizer of the training."""
    model = (sentencepiece_dir / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    config = tmp_path / "tokenizer_config.json"
    own = {"added_tokens_decoder": {"1": {"content": "<s>"}, "2": {"content": "</s>"}}}
    config.write_text(json.dumps(own))
    assert load_tokenizer(tmp_path).eos_id == 2
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 320}')
    with pytest.raises(ValueError, match=r"'<\|im_end\|>' was added .* as id 320"):
        load_tokenizer(tmp_path)


def test_the_tokens_map_fills_in_what_the_config_leaves_out(
    byte_level_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(
        (byte_level_dir / "tokenizer.json").read_bytes()
    )
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "</s>"}')
    assert load_tokenizer(tmp_path).bos_id == 1
    assert load_tokenizer(tmp_path).eos_id is None


def test_truncation_and_padding_of_the_file_are_ignored(
    byte_level_dir: Path, tmp_path: Path
) -> None:
    rust = tokenizers.Tokenizer.from_file(str(byte_level_dir / "tokenizer.json"))
    rust.enable_truncation(max_length=2)
    rust.enable_padding(length=64)
    rust.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("qqqqqqq")) == 7


def test_ids_past_the_vocabulary_are_no_text(any_tokenizer: Tokenizer) -> None:
    assert any_tokenizer.decode([any_tokenizer.vocab_size, 10**9]) == ""


def test_a_negative_id_is_refused(any_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="token ids are 0 or more, got -1"):
        any_tokenizer.decode([5, -1])


def test_other_threads_run_while_a_long_text_is_tokenized(
    any_tokenizer: Tokenizer,
) -> None:
    text = "the cat sat on the mat " * 20_000
    with ThreadPoolExecutor(1) as pool:
        encoding = pool.submit(any_tokenizer.encode, text)
        turns = 0
        while not encoding.done():
            time.sleep(1e-4)
            turns += 1
    assert len(encoding.result()) > 20_000
    assert turns > 20


def test_an_unpaired_surrogate_is_refused(any_tokenizer: Tokenizer) -> None:
    message = r"unpaired surrogate, U\+D800, at character 2; send valid Unicode"
    with pytest.raises(ValueError, match=message):
        any_tokenizer.encode("hi\ud800")
    with pytest.raises(ValueError, match=message):
        any_tokenizer.check_prompt_bytes("hi\ud800", max_tokens=10)


def test_a_prompt_is_refused_by_its_bytes_only_if_no_tokenization_fits(
    byte_fallback: Tokenizer,
) -> None:
    assert byte_fallback.longest_token_bytes == 5  # "<unk>"
    byte_fallback.check_prompt_bytes("é" * 5, max_tokens=2)
    with pytest.raises(ValueError, match="has 11 bytes, but 2 tokens of at most 5"):
        byte_fallback.check_prompt_bytes("é" * 5 + "e", max_tokens=2)


@given(text=TEXTS)
def test_the_byte_bound_never_refuses_what_fits(
    any_tokenizer: Tokenizer, text: str
) -> None:
    num_tokens = len(any_tokenizer.encode(text, add_special_tokens=False))
    any_tokenizer.check_prompt_bytes(text, max_tokens=num_tokens)


def test_a_control_token_spelled_out_is_not_one_token(
    sentence_piece: Tokenizer,
) -> None:
    assert sentence_piece.longest_token_bytes == 6  # " hello"
    assert len(sentence_piece.encode("</s>", add_special_tokens=False)) > 1


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    message = f"no tokenizer in {re.escape(str(tmp_path))}: looked for tokenizer.json"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_the_json_file_is_preferred(byte_level_dir: Path, tmp_path: Path) -> None:
    json_bytes = (byte_level_dir / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(json_bytes)
    (tmp_path / "tokenizer.model").write_bytes(b"never read")
    assert load_tokenizer(tmp_path).vocab_size == 290


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json is not JSON"),
        (
            "tokenizer.json",
            '{"decoder": {"type": "ByteLevel"}, "model": 5}',
            "tokenizer.json: not a usable tokenizer",
        ),
        ("tokenizer.json", "[]", "must hold a JSON object, not list"),
        ("tokenizer.json", '{"decoder": null}', r"decoder \['none'\]; use ByteLevel"),
        ("tokenizer.json", '{"decoder": {"type": "CTC"}}', r"decoder \['CTC'\]"),
        ("tokenizer.json", '{"decoder": {"type": "Strip", "stop": 1}}', "at the end"),
        ("tokenizer.json", '{"decoder": {"type": "Sequence"}}', r"\['Sequence'\]"),
        ("tokenizer.model", "\x00 no model", "is no SentencePiece model"),
    ],
)
def test_a_broken_file_is_refused_by_name(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


@given(text=TEXTS)
def test_plain_text_is_tokenized_as_ever(any_tokenizer: Tokenizer, text: str) -> None:
    assert any_tokenizer.encode_plain(text) == any_tokenizer.encode(text)


@pytest.mark.parametrize("text", ["</s>", "a</s>b<s>", "<s></s>", "<</s>>", "<s>"])
def test_special_tokens_in_plain_text_stay_letters(
    any_tokenizer: Tokenizer, text: str
) -> None:
    ids = any_tokenizer.encode_plain(text)
    assert any_tokenizer.find_control_token(ids) is None
    start = len(any_tokenizer.encode(""))  # the beginning of a text, or nothing
    assert not any_tokenizer.special_ids.intersection(ids[start:])
    assert any_tokenizer.decode(ids).replace(" ", "") == text


def with_template(spec: dict[str, Any], *, single: list[int]) -> dict[str, Any]:
    """`spec`, with special tokens of these ids around a text: [1, -1, 2]."""
    tokens = {i: f"<t{i}>" for i in single if i >= 0}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": tokens[i], "type_id": 0}}
            if i >= 0
            else {"Sequence": {"id": "A", "type_id": 0}}
            for i in single
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {
            text: {"id": text, "ids": [i], "tokens": [text]}
            for i, text in tokens.items()
        },
    }
    return spec


def changed(
    directory: Path, change: Callable[[dict[str, Any]], object], *, to: Path
) -> Tokenizer:
    """A tokenizer of a changed file."""
    spec = json.loads((directory / "tokenizer.json").read_text())
    change(spec)
    (to / "tokenizer.json").write_text(json.dumps(spec))
    return load_tokenizer(to)


def test_what_the_tokenizer_puts_around_a_text_stays_around_plain_text(
    byte_fallback_dir: Path, tmp_path: Path
) -> None:
    framed = changed(
        byte_fallback_dir,
        lambda spec: with_template(spec, single=[1, -1, 2]),
        to=tmp_path,
    )
    assert framed.encode_plain("hi") == framed.encode("hi") == [1, 263, 2]
    ids = framed.encode_plain("hi</s>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert not {0, 1, 2}.intersection(ids[1:-1])
    assert framed.find_control_token([1, 263]) is None
    assert framed.find_control_token([1, 1, 263]) == 1
    assert framed.find_control_token([263, 2]) == 2
    assert framed.find_control_token([1, 263, 262], others=[262]) == 262


def test_the_token_of_unknown_letters_may_be_anywhere(
    byte_fallback_dir: Path, tmp_path: Path
) -> None:
    def forget_bytes(spec: dict[str, Any]) -> None:
        spec["model"]["byte_fallback"] = False

    tokenizer = changed(byte_fallback_dir, forget_bytes, to=tmp_path)
    assert 0 in tokenizer.encode_plain("hiX")
    assert tokenizer.find_control_token([263, 0]) is None


def test_a_special_token_by_other_letters_is_refused(
    byte_level_dir: Path, tmp_path: Path
) -> None:
    def lower(spec: dict[str, Any]) -> None:
        spec["normalizer"] = {"type": "Lowercase"}
        for token in spec["added_tokens"]:
            token["normalized"] = True

    tokenizer = changed(byte_level_dir, lower, to=tmp_path)
    assert tokenizer.encode("</S>") == [1]
    with pytest.raises(ValueError, match="becomes the special token 1"):
        tokenizer.encode_plain("the cat</S>")
    assert 1 not in tokenizer.encode_plain("the cat</s>")


def test_rules_that_panic_are_an_error_of_the_text(tmp_path: Path) -> None:
    """A regular expression that backtracks ends in Rust, and not as an Exception."""
    rust = tokenizers.Tokenizer(models.WordLevel({"a": 0, "x": 1}, unk_token="a"))
    rust.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex("(x+x+)+y"), behavior="isolated"
    )
    spec = json.loads(rust.to_str()) | {"decoder": {"type": "Fuse"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="rules of the tokenizer fail on this text"):
        tokenizer.encode("x" * 100)


def test_a_normalizer_that_blows_a_text_up_is_refused(tmp_path: Path) -> None:
    rust = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    rust.normalizer = normalizers.Sequence(
        [normalizers.Replace("a", "a" * 1000) for _ in range(3)]
    )
    spec = json.loads(rust.to_str()) | {"decoder": {"type": "Fuse"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="1000000000 times as long, at most 64"):
        load_tokenizer(tmp_path)


def test_a_file_nested_without_end_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"tokenizer\.json is nested too deeply"):
        load_tokenizer(tmp_path)
