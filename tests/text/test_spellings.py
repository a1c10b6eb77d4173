"""Control tokens in texts are found and cut, however many there are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.text.spellings import Spellings
from mell_jax.text.vocabulary import Vocabulary


def spellings(*tokens: str) -> Spellings:
    return Spellings(
        Vocabulary(
            token_bytes=tuple(token.encode() for token in tokens),
            special_ids=frozenset(range(len(tokens))),
            bos_id=None,
            eos_id=None,
            leading_spaces=0,
            longest_token_bytes=9,
        )
    )


CHAT = spellings("<|end|>", "<|end", "<|start|>", "[INST]", "\n")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hi", ["hi"]),
        ("", [""]),
        ("<|end|>", ["<", "|end|>"]),
        ("a<|start|>b<|end", ["a<", "|start|>b<", "|end"]),
        ("<<|end|>>", ["<<", "|end|>>"]),
        ("[INST]", ["[", "INST]"]),
        ("<|star", ["<|star"]),
        ("a\nb", ["a\nb"]),  # one letter cannot be cut
    ],
)
def test_a_text_is_cut_after_the_first_letter_of_each(
    text: str, pieces: list[str]
) -> None:
    assert CHAT.cut(text) == pieces


def test_the_longest_token_is_the_one_that_is_there() -> None:
    assert CHAT.split("a<|end|>b<|endc") == ["a", "<|end|>", "b", "<|end", "c"]
    assert CHAT.ids == {"<|end|>": 0, "<|end": 1, "<|start|>": 2, "[INST]": 3}


def test_a_text_may_go_on_where_a_token_has_begun() -> None:
    assert [CHAT.may_go_on(text) for text in ("", "a", "a<", "<|st", "[INST")] == [
        *(False, False),
        *(True, True, True),
    ]
    assert not CHAT.may_go_on("<|start|>")


@pytest.mark.parametrize("tokens", [(), ("\n",)])
def test_without_control_tokens_nothing_is_cut(tokens: tuple[str, ...]) -> None:
    none = spellings(*tokens)
    assert none.cut("<s>\n") == none.split("<s>\n") == ["<s>\n"]
    assert not none.may_go_on("<")


letters = st.text("<|>ab", min_size=2, max_size=4)


@given(tokens=st.sets(letters, max_size=6), text=st.text("<|>ab", max_size=20))
def test_no_piece_has_a_whole_one_and_no_letter_is_lost(
    tokens: set[str], text: str
) -> None:
    found = spellings(*tokens)
    pieces = found.cut(text)
    assert "".join(pieces) == "".join(found.split(text)) == text
    assert not [t for t in tokens for piece in pieces if t in piece]
    by_length = sorted(tokens, key=len, reverse=True)
    plain = re.compile(f"({'|'.join(map(re.escape, by_length))})" if tokens else "(?!)")
    assert found.split(text) == [part for part in plain.split(text) if part]


def test_thousands_of_tokens_are_looked_for_letter_by_letter() -> None:
    many = spellings(*(f"<unused{i}>" for i in range(6000)))
    text = "<unused7" * 25_000  # one by one they would take 4 s
    assert many.cut(text) == [text]
    assert many.cut("<unused5999>") == ["<", "unused5999>"]
