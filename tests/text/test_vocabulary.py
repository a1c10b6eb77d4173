import pytest

from mell_jax.text.vocabulary import (
    EVERY_SPACE,
    Vocabulary,
    find_leading_spaces,
    find_longest_token_bytes,
)

TEXTS = {7: " ", 8: " \u2047 ", 9: " hi"}


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [("   hi", 0), ("  hi", 1), (" hi", 2), ("hi", EVERY_SPACE)],
)
def test_dropped_spaces_are_counted_by_decoding_a_few(
    decoded: str, expected: int
) -> None:
    decode = {str([7, 7, 9]): decoded}
    found = find_leading_spaces(TEXTS, decode=lambda ids: decode[str(ids)])
    assert found == expected


def test_one_word_shows_a_dropped_space_where_no_token_is_a_space() -> None:
    assert find_leading_spaces({9: " hi"}, decode=lambda ids: "hi") == 1


def test_no_space_is_dropped_where_no_token_begins_with_one() -> None:
    assert find_leading_spaces({0: "hi", 1: " "}, decode=lambda ids: "never") == 0


def test_the_longest_token_counts_bytes_of_text_before_a_normalizer_folds_it() -> None:
    tokens = [b"a", b"\xc3\xa9", b""]
    assert find_longest_token_bytes(tokens, normalize=None) == 2
    assert find_longest_token_bytes(tokens, normalize=lambda t: f"_{t}") == 2
    assert find_longest_token_bytes(tokens, normalize=lambda t: "A") == 8
    assert find_longest_token_bytes([], normalize=None) == 0


def test_tokens_are_joined_as_bytes_and_read_as_text() -> None:
    vocabulary = Vocabulary(
        token_bytes=(b" caf", b"\xc3", b"\xa9", b"</s>"),
        special_ids=frozenset({3}),
        bos_id=None,
        eos_id=3,
        leading_spaces=1,
        longest_token_bytes=4,
    )
    assert vocabulary.decode([0, 1, 2, 3], skip_special_tokens=True) == "café"
    assert vocabulary.decode([0, 1, 3], skip_special_tokens=False) == "caf\ufffd</s>"
