import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.text.output_text import OutputText, TextDelta
from mell_jax.text.tokenizer import Tokenizer

SPACE, LETTER_H, LETTER_I, HI = 259, 260, 261, 263  # of the byte fallback tokenizer


def stream_of(
    tokenizer: Tokenizer,
    *,
    stops: tuple[str, ...] = (),
    include_stop: bool = False,
    min_tokens: int = 0,
) -> OutputText:
    return OutputText(
        tokenizer,
        stops=stops,
        include_stop=include_stop,
        skip_special_tokens=True,
        min_tokens=min_tokens,
    )


def delta(text: str, *, used: int, stop: str | None = None) -> TextDelta:
    return TextDelta(text=text, stop=stop, num_tokens_used=used)


def test_tokens_become_text(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback)
    assert stream.add([HI, HI]) == delta("hi hi", used=2)
    assert stream.add([LETTER_I]) == delta("i", used=1)
    assert stream.finish() == delta("", used=0)


def test_the_token_that_completes_the_stop_string_is_the_last_one_used(
    byte_fallback: Tokenizer,
) -> None:
    stream = stream_of(byte_fallback, stops=("i i",))
    assert stream.add([HI]) == delta("h", used=1)
    assert stream.add([SPACE, LETTER_I, LETTER_H, LETTER_H]) == delta(
        "", used=2, stop="i i"
    )


def test_tokens_after_the_stop_string_are_not_used(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback, stops=("i",), include_stop=True)
    assert stream.add([HI]) == delta("hi", used=1, stop="i")
    assert stream.add([HI, HI]) == delta("", used=0, stop="i")
    assert stream.finish() == delta("", used=0, stop="i")


def test_a_stop_string_may_end_inside_a_token(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback, stops=("h",), include_stop=True)
    assert stream.add([HI]) == delta("h", used=1, stop="h")


def test_the_first_tokens_complete_no_stop_string(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback, stops=("i",), min_tokens=2)
    assert stream.add([HI, HI, HI]) == delta("hi hi h", used=3, stop="i")


def test_a_stop_string_may_begin_in_the_first_tokens(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback, stops=("hi h",), min_tokens=1)
    assert stream.add([HI]) == delta("", used=1)
    assert stream.add([HI]) == delta("", used=1, stop="hi h")


def test_what_was_held_back_comes_out_at_the_end(byte_fallback: Tokenizer) -> None:
    stream = stream_of(byte_fallback, stops=("i!",))
    begins_a_character = 3 + 0xF0
    assert stream.add([HI, begins_a_character]) == delta("h", used=2)
    assert stream.finish() == delta("i\ufffd", used=0)


def test_the_mark_of_an_incomplete_character_may_complete_a_stop_string(
    byte_fallback: Tokenizer,
) -> None:
    stream = stream_of(byte_fallback, stops=("i\ufffd",))
    assert stream.add([HI, 3 + 0xF0]) == delta("h", used=2)
    assert stream.finish() == delta("", used=0, stop="i\ufffd")


def test_the_space_stays_where_the_text_follows_a_prompt(
    byte_fallback: Tokenizer,
) -> None:
    stream = OutputText(
        byte_fallback,
        stops=(),
        include_stop=False,
        skip_special_tokens=True,
        min_tokens=0,
        continues_text=True,
    )
    assert stream.add([HI]) == delta(" hi", used=1)


def test_a_negative_number_of_first_tokens_is_refused(byte_fallback: Tokenizer) -> None:
    with pytest.raises(ValueError, match="min_tokens must be 0 or more, got -1"):
        stream_of(byte_fallback, min_tokens=-1)


@given(
    pieces=st.lists(
        st.lists(st.integers(259, 263) | st.integers(0, 258), max_size=4), max_size=8
    ),
    stops=st.sampled_from([(), ("i",), ("hi h", "ih"), ("\ufffd", "  ")]),
    min_tokens=st.integers(0, 6),
)
def test_any_split_makes_the_same_text_and_uses_the_same_tokens(
    any_tokenizer: Tokenizer,
    pieces: list[list[int]],
    stops: tuple[str, ...],
    min_tokens: int,
) -> None:
    def run(split: list[list[int]]) -> tuple[str, str | None, int]:
        stream = stream_of(any_tokenizer, stops=stops, min_tokens=min_tokens)
        deltas = [stream.add(ids) for ids in split] + [stream.finish()]
        text = "".join(d.text for d in deltas)
        return text, deltas[-1].stop, sum(d.num_tokens_used for d in deltas)

    all_ids = [i for ids in pieces for i in ids]
    text, stop, num_used = run(pieces)
    assert (text, stop, num_used) == run([all_ids])
    whole = any_tokenizer.decode(all_ids[:num_used])
    if stop is None:
        assert (text, num_used) == (whole, len(all_ids))
    else:
        assert whole.startswith(text + stop)
