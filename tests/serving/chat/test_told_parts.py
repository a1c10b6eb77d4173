"""However an answer is cut, what is told of it adds up to the whole of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.frontend import Delta
from mell_jax.frontend.delta import SampleEnd
from mell_jax.serving.anthropic.answers import MessageHeading, MessageTeller
from mell_jax.serving.chat.events import Begun, Ended, Step, Usage, settled
from mell_jax.serving.chat.teller import Teller, told_by
from mell_jax.serving.openai.answers import ChatWriter, Heading
from mell_jax.serving.openai.responses.answers import ResponseHeading, ResponseTeller
from mell_jax.serving.openai.samples import Samples
from mell_jax.text.answers import (
    FORMATS,
    AnswerParser,
    Beginning,
    CallDropped,
    Event,
    Reasoning,
    Recast,
)
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.serving.chat.parts import (
    Parts,
    of_blocks,
    of_message,
    of_response,
    of_stream,
)
from tests.text.answers.cases import CALLS as SOME_CALLS
from tests.text.answers.cases import TEXTS, TOOLBOX, cut, near_calls, write_calls

THINK = Reasoning(open="<think>", close="</think>")
HEADING = Heading(id="x", created=1, model="m")
USAGE = Usage(prompt_tokens=1)


@pytest.fixture(scope="module")
def tokenizer(letters_dir: Path) -> Tokenizer:
    return load_tokenizer(letters_dir)


def parser(form: str, beginning: Beginning) -> AnswerParser:
    return AnswerParser(
        reasoning=THINK, beginning=beginning, form=FORMATS[form], tools=TOOLBOX
    )


@st.composite
def answers(draw: st.DrawFn, form: str) -> str:
    """Thoughts, text and calls, or what only looks like them."""
    thought = draw(TEXTS)
    begin = draw(
        st.sampled_from(
            ["", f"<think>{thought}</think>\n\n", f"{thought}</think>", "<think>a"]
        )
    )
    calls = st.builds(lambda calls: write_calls(form, calls), SOME_CALLS)
    return begin + draw(TEXTS | st.just("")) + draw(calls | near_calls(form))


def chat(
    pieces: Sequence[str], form: str, beginning: Beginning, tokenizer: Tokenizer
) -> tuple[tuple[Parts, str], tuple[Parts, str]]:
    """The answer as chat completions tell it, streamed and whole, with its reason."""

    def new_samples() -> Samples:
        return Samples(
            tokenizer,
            n=1,
            echo=None,
            skips_special_tokens=True,
            new_parser=lambda: parser(form, beginning),
        )

    deltas = [
        Delta(
            index=0,
            token_ids=(1,),
            text=piece,
            logprobs=None,
            finish=SampleEnd(reason="stop") if is_last else None,
            prompt_token_ids=(1,),
            completion_tokens=1,
            cached_tokens=0,
            prompt_logprobs=None,
        )
        for piece, is_last in [*((piece, False) for piece in pieces), ("", True)]
    ]
    writer, samples = ChatWriter(), new_samples()
    chunks = [
        chunk
        for delta in deltas
        for chunk in writer.chunks(HEADING, samples.read(delta, prompt=0))
    ]
    samples = new_samples()
    joined = samples.whole({0: [samples.read(delta, prompt=0) for delta in deltas]})
    (choice,) = ChatWriter().whole(HEADING, joined, usage={})["choices"]  # type: ignore[attr-defined]
    whole = of_message(choice["message"]), choice["finish_reason"]
    return of_stream([dict(chunk) for chunk in chunks]), whole


def told_whole(teller: Teller, events: Sequence[Event]) -> Teller:
    steps: list[Step] = [
        Begun(usage=USAGE),
        *events,
        Ended(is_cut=False, usage=USAGE),
    ]
    for step in settled(steps):
        told_by(teller, step)
    return teller


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_streamed_adds_up(
    tokenizer: Tokenizer, form: str, data: st.DataObject
) -> None:
    beginning = data.draw(st.sampled_from(Beginning))
    text = data.draw(answers(form))
    pieces = cut(text, data.draw(st.lists(st.integers(0, 10_000), max_size=8)))
    (streamed, reason), (whole, reason_of_whole) = chat(
        pieces, form, beginning, tokenizer
    )
    assert reason == reason_of_whole == ("tool_calls" if whole.calls else "stop")
    assert whole == chat([text], form, beginning, tokenizer)[1][0]
    reader = parser(form, beginning)
    events = [*reader.push(text), *reader.finish()]
    is_recast = Recast() in events
    dropped = [event for event in events if isinstance(event, CallDropped)]
    if not dropped and not is_recast:
        assert streamed == whole
    assert streamed.thought + streamed.text == whole.thought + whole.text
    assert len(streamed.calls) == len(whole.calls) + len(dropped)
    assert set(whole.calls) <= set(streamed.calls)
    response = told_whole(
        ResponseTeller(
            ResponseHeading(
                key="0", created_s=1, model="m", repeated={}, seals_thoughts=False
            )
        ),
        events,
    )
    assert of_response(dict(response.whole())) == whole
    message = told_whole(MessageTeller(MessageHeading(key="0", model="m")), events)
    blocks = of_blocks(dict(message.whole()))
    assert (blocks.thought, blocks.text) == (whole.thought, whole.text)
    assert [name for name, _ in blocks.calls] == [name for name, _ in whole.calls]
