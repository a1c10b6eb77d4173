"""Answers as steps, made by hypothesis: thoughts, texts and calls in any order."""

import hypothesis.strategies as st

from mell_jax.serving.chat.events import (
    Begun,
    CallArgued,
    CallBegan,
    CallDropped,
    Ended,
    Event,
    Recast,
    Said,
    Step,
    Thought,
    Usage,
)

PIECES = st.text(max_size=4)
NAMES = st.sampled_from(["add", "look_up"])
USAGES = st.builds(
    Usage,
    prompt_tokens=st.integers(20, 99),
    cached_tokens=st.integers(0, 20),
    completion_tokens=st.integers(0, 99),
    thought_tokens=st.integers(0, 20),
)
ENDS = st.builds(
    Ended,
    is_cut=st.booleans(),
    usage=USAGES,
    stop_string=st.none() | st.just("STOP"),
)


@st.composite
def events(draw: st.DrawFn, *, takes_back: bool) -> list[Event]:
    """What an answer is made of; `takes_back` for those that change their mind."""
    found: list[Event] = []
    kinds = ["said", "thought", "call"]
    if takes_back:
        kinds += ["recast", "dropped"]
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=8)):
        match kind:
            case "said":
                found.append(Said(draw(PIECES)))
            case "thought":
                found.append(Thought(draw(PIECES)))
            case "recast":
                found.append(Recast())
            case _:
                found.append(CallBegan(num_calls, draw(NAMES)))
                pieces = draw(st.lists(PIECES, max_size=3))
                found += [CallArgued(num_calls, piece) for piece in pieces]
                if kind == "dropped":
                    found.append(CallDropped(num_calls, draw(PIECES)))
                num_calls += 1
    return found


def answers(*, takes_back: bool = False) -> st.SearchStrategy[list[Step]]:
    """Whole answers."""
    return st.builds(
        lambda begun, found, ended: [Begun(usage=begun), *found, ended],
        USAGES,
        events(takes_back=takes_back),
        ENDS,
    )
