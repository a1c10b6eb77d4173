"""Offsets point into the text that the client gets, whatever tokens are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.engine.build import demo_directory
from mell_jax.frontend import Delta, TokenLogprobs
from mell_jax.frontend.delta import SampleEnd
from mell_jax.serving.openai.samples import Echo, Piece, Samples, join
from mell_jax.text.detokenizer import Detokenizer
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = st.text("ab e\u00ef\u6f22\U0001f389\ufffd", min_size=1, max_size=12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(demo_directory())


def rows(ids: list[int]) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(token=i, logprob=-1.0, top=()) for i in ids)


def read(
    tokenizer: Tokenizer,
    *,
    prompt: list[int],
    answer: list[int],
    echo: str | None,
    cut: int | None = None,
    sizes: tuple[int, ...] = (),
    skips: bool = True,
) -> Piece:
    """The joined choice of an answer that came in pieces of `sizes` tokens."""
    samples = Samples(
        tokenizer,
        n=1,
        echo=None if echo is None else Echo(texts=(echo,), hides_answer=False),
        skips_special_tokens=skips,
    )
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skips, continues_text=True)
    pieces, ids = [], list(answer)
    for number, size in enumerate((*sizes, len(answer))):
        part, ids = ids[:size], ids[size:]
        text = detokenizer.add(part)
        is_last = not ids
        if is_last:
            text += detokenizer.flush()
            text = text if cut is None else text[:cut]
        pieces.append(
            samples.read(
                Delta(
                    index=0,
                    token_ids=tuple(part),
                    text=text,
                    logprobs=rows(part),
                    finish=SampleEnd(reason="stop") if is_last else None,
                    prompt_token_ids=tuple(prompt),
                    completion_tokens=len(answer) - len(ids),
                    cached_tokens=0,
                    prompt_logprobs=(None, *rows(prompt[1:])) if not number else None,
                ),
                prompt=0,
            )
        )
        if is_last:
            return join(pieces)
    raise AssertionError("no piece was the last")


def check(piece: Piece) -> None:
    """Whole words stand where their offsets say; parts of a character, at it."""
    assert piece.words is not None
    assert len(piece.offsets) == len(piece.words)
    assert list(piece.offsets) == sorted(piece.offsets)
    for word, offset in zip(piece.words, piece.offsets, strict=True):
        assert 0 <= offset <= len(piece.text)
        if word.text.encode() == word.utf8 and not word.text.startswith("<"):
            assert piece.text[offset : offset + len(word.text)] == word.text


@given(prompt=TEXTS, answer=TEXTS, sizes=st.tuples(st.integers(0, 3)))
def test_every_token_is_where_its_offset_says(
    tokenizer: Tokenizer, prompt: str, answer: str, sizes: tuple[int, ...]
) -> None:
    asked = tokenizer.encode(prompt)  # with the hidden beginning of a text
    given_ids = tokenizer.encode(answer, add_special_tokens=False)
    check(read(tokenizer, prompt=asked, answer=given_ids, echo=None, sizes=sizes))
    check(read(tokenizer, prompt=asked, answer=given_ids, echo=prompt, sizes=sizes))


def test_a_hidden_beginning_takes_no_room(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Once upon a time")
    piece = read(tokenizer, prompt=ids, answer=[], echo="Once upon a time")
    assert piece.text == "Once upon a time"
    assert piece.offsets[:3] == (0, 0, 4)


def test_a_beginning_that_the_text_shows_takes_its_room(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Once upon a time")
    shown = tokenizer.decode(ids, skip_special_tokens=False)
    piece = read(tokenizer, prompt=ids, answer=[], echo=shown)
    assert piece.text[piece.offsets[1] :].startswith("Once")


def test_the_parts_of_a_character_are_where_it_is(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U0001f389x", add_special_tokens=False)
    piece = read(tokenizer, prompt=[0], answer=ids, echo=None)
    assert piece.text == "\U0001f389x"
    assert piece.offsets == (*[0] * (len(ids) - 1), 1)


def test_no_offset_is_behind_a_text_that_a_stop_string_cut(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode(", there was", add_special_tokens=False)
    piece = read(tokenizer, prompt=[0], answer=ids, echo=None, cut=4)
    assert piece.text == ", th"
    assert max(piece.offsets) <= 4


def test_special_tokens_of_an_answer_take_room_only_where_they_show(
    tokenizer: Tokenizer,
) -> None:
    x = tokenizer.encode("x", add_special_tokens=False)
    for skips, offsets in ((True, (0, 0)), (False, (0, 5))):
        piece = read(tokenizer, prompt=[0], answer=[1, *x], echo=None, skips=skips)
        assert piece.offsets[:2] == offsets


def test_offsets_are_plain_numbers(tokenizer: Tokenizer) -> None:
    ids = [int(i) for i in np.array(tokenizer.encode("a b"))]
    piece = read(tokenizer, prompt=ids, answer=ids[1:], echo="a b")
    assert all(type(offset) is int for offset in piece.offsets)


def test_a_sample_that_ends_before_its_prompt_was_computed_has_its_echo(
    tokenizer: Tokenizer,
) -> None:
    samples = Samples(
        tokenizer,
        n=1,
        echo=Echo(texts=("Once",), hides_answer=False),
        skips_special_tokens=True,
    )
    piece = samples.read(
        Delta(
            index=0,
            token_ids=(),
            text="",
            logprobs=(),
            finish=SampleEnd(reason="abort"),
            prompt_token_ids=(0, 1),
            completion_tokens=0,
            cached_tokens=0,
            prompt_logprobs=None,
        ),
        prompt=0,
    )
    assert (piece.text, piece.words, piece.offsets) == ("Once", (), ())
    assert piece.finish_reason == "abort"
