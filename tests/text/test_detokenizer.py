import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.text.detokenizer import Detokenizer
from mell_jax.text.tokenizer import Tokenizer

FALLBACK_BYTE = 3  # id of <0x00> in the byte fallback and SentencePiece tokenizers
SPACE, HI = 259, 263  # "▁" and "▁hi" in the byte fallback tokenizer


@given(
    pieces=st.lists(
        st.lists(
            st.integers(0, 320) | st.sampled_from([SPACE, 0xF0, 0xE6]), max_size=6
        ),
        max_size=12,
    ),
    skip=st.booleans(),
)
def test_any_split_of_any_ids_makes_the_text_of_all_ids(
    any_tokenizer: Tokenizer, pieces: list[list[int]], skip: bool
) -> None:
    stream = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    text = "".join(stream.add(ids) for ids in pieces) + stream.flush()
    all_ids = [i for ids in pieces for i in ids]
    assert text == any_tokenizer.decode(all_ids, skip_special_tokens=skip)


def test_a_character_is_held_back_until_it_is_complete(
    byte_fallback: Tokenizer,
) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True)
    llama = [FALLBACK_BYTE + byte for byte in b"\xf0\x9f\xa6\x99"]
    assert [stream.add([i]) for i in llama] == ["", "", "", "🦙"]
    assert stream.flush() == ""


def test_an_incomplete_character_is_marked_at_the_end(byte_fallback: Tokenizer) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True)
    assert stream.add([HI, FALLBACK_BYTE + 0xF0]) == "hi"
    assert stream.flush() == "\ufffd"


def test_endless_incomplete_characters_come_out_one_token_late(
    byte_fallback: Tokenizer,
) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True)
    begins_a_character = FALLBACK_BYTE + 0xF0
    assert stream.add([begins_a_character]) == ""
    for _ in range(100):
        assert stream.add([begins_a_character]) == "\ufffd"


def test_the_space_before_the_first_word_is_dropped_once(
    byte_fallback: Tokenizer,
) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True)
    beginning_of_text = 1
    assert stream.add([beginning_of_text]) == ""
    assert stream.add([SPACE]) == ""
    assert stream.add([HI]) == " hi"
    assert stream.add([HI]) == " hi"


def test_the_space_stays_where_the_text_follows_a_prompt(
    byte_fallback: Tokenizer,
) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True, continues_text=True)
    assert stream.add([HI]) == " hi"


def test_special_tokens_are_written_when_asked_for(byte_fallback: Tokenizer) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=False)
    assert stream.add([1, HI, 2]) == "<s> hi</s>"


def test_a_negative_id_is_refused(byte_fallback: Tokenizer) -> None:
    stream = Detokenizer(byte_fallback, skip_special_tokens=True)
    with pytest.raises(ValueError, match="token ids are 0 or more, got -2"):
        stream.add([-2])
