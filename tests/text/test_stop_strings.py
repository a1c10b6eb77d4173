import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.text.stop_strings import Emit, StopMatcher

LETTERS = st.text("ab", max_size=12)  # two letters: overlaps everywhere


def emit(text: str, matched: str | None = None) -> Emit:
    return Emit(text=text, matched=matched)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["END"], include_stop=False)
    assert matcher.push("a E") == emit("a ")
    assert matcher.push("N") == emit("")
    assert matcher.push("x") == emit("ENx")
    assert matcher.push("EE") == emit("E")
    assert matcher.push("ND and more") == emit("", "END")


def test_the_stop_string_is_part_of_the_text_when_asked_for() -> None:
    matcher = StopMatcher(["END"], include_stop=True)
    assert matcher.push("a E") == emit("a ")
    assert matcher.push("ND b") == emit("END", "END")


def test_what_was_held_back_comes_out_at_the_end() -> None:
    matcher = StopMatcher(["END"], include_stop=False)
    assert matcher.push("the EN") == emit("the ")
    assert matcher.flush() == emit("EN")
    assert matcher.flush() == emit("")


def test_nothing_comes_out_after_a_match() -> None:
    matcher = StopMatcher(["b"], include_stop=False)
    assert matcher.push("abc") == emit("a", "b")
    assert matcher.flush() == emit("")
    with pytest.raises(AssertionError, match="pushed text after a match"):
        matcher.push("d")


def test_the_stop_string_that_is_complete_first_wins() -> None:
    matcher = StopMatcher(["abcd", "bc"], include_stop=False)
    assert matcher.push("xabcd") == emit("xa", "bc")


def test_of_two_complete_at_once_the_longer_wins() -> None:
    matcher = StopMatcher(["c", "abc", "bc"], include_stop=False)
    assert matcher.push("xabc") == emit("x", "abc")


def test_a_match_may_begin_inside_a_failed_one() -> None:
    matcher = StopMatcher(["aab"], include_stop=False)
    assert matcher.push("aa") == emit("")
    assert matcher.push("a") == emit("a")
    assert matcher.push("b") == emit("", "aab")


def test_an_unarmed_piece_completes_nothing_but_may_begin_a_match() -> None:
    matcher = StopMatcher(["END"], include_stop=False)
    assert matcher.push("END E", is_armed=False) == emit("END ")
    assert matcher.push("ND") == emit("", "END")


def test_without_stop_strings_everything_passes() -> None:
    matcher = StopMatcher([], include_stop=False)
    assert matcher.push("any text") == emit("any text")
    assert matcher.flush() == emit("")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must not be empty, got \['a', ''\]"):
        StopMatcher(["a", ""], include_stop=False)


def search_whole_text(
    text: str, *, stops: list[str], num_unarmed: int
) -> tuple[int, str] | None:
    """End and stop string of the match that ends first, then is longest."""
    for end in range(num_unarmed + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


@given(
    unarmed=LETTERS,
    pieces=st.lists(LETTERS),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    include_stop=st.booleans(),
)
def test_any_pieces_make_what_a_search_of_the_whole_text_finds(
    unarmed: str, pieces: list[str], stops: list[str], include_stop: bool
) -> None:
    matcher = StopMatcher(stops, include_stop=include_stop)
    text = unarmed + "".join(pieces)
    emits = [matcher.push(unarmed, is_armed=False)]
    for piece in pieces:
        emits.append(matcher.push(piece))
        if emits[-1].matched is not None:
            break
    emits.append(matcher.flush())
    made = "".join(e.text for e in emits)
    matched = next((e.matched for e in emits if e.matched is not None), None)

    found = search_whole_text(text, stops=stops, num_unarmed=len(unarmed))
    if found is None:
        assert (made, matched) == (text, None)
    else:
        end, stop = found
        assert matched == stop
        # An unarmed match may overlap the real one, never after it was emitted.
        assert made == text[: end if include_stop else end - len(stop)]


@given(text=LETTERS, stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4))
def test_no_more_is_held_back_than_could_become_a_stop_string(
    text: str, stops: list[str]
) -> None:
    matcher = StopMatcher(stops, include_stop=False)
    first = matcher.push(text, is_armed=False)
    held = len(text) - len(first.text)
    could_match = [
        n
        for n in range(1, len(text) + 1)
        if any(stop.startswith(text[-n:]) and stop != text[-n:] for stop in stops)
    ]
    assert held == max(could_match, default=0)
