import numpy as np

from mell_jax.engine.frames import (
    Finished,
    FinishReason,
    Handle,
    NewVersion,
    PromptDone,
    StepFrame,
)
from mell_jax.serving.processes.split import part_of
from tests.serving.fake_engine import fake_logprobs

ONE, TWO = 1 << 40, 2 << 40
FRAME = StepFrame(
    handles=np.array([ONE + 1, TWO + 1, ONE + 2], np.int64),
    tokens=np.array([10, 20, 30], np.int32),
    logprobs=fake_logprobs([10, 20, 30]),
    prompts=(PromptDone(handle=Handle(TWO + 1), cached_tokens=0, logprobs=None),),
    finished=(Finished(handle=Handle(ONE + 2), reason=FinishReason.STOP),),
    versions=(
        NewVersion(version="a", handles=(Handle(ONE + 1), Handle(TWO + 1))),
        NewVersion(version="b", handles=(Handle(TWO + 2),)),
    ),
)


def test_each_front_end_gets_its_own_rows() -> None:
    part = part_of(FRAME, number=1)
    assert part is not None and part.logprobs is not None
    assert part.handles.tolist() == [ONE + 1, ONE + 2]
    assert part.tokens.tolist() == [10, 30]
    assert part.logprobs.top_ids[:, 0].tolist() == [10, 30]
    assert (part.prompts, part.finished) == ((), FRAME.finished)
    assert part.versions == (NewVersion(version="a", handles=(Handle(ONE + 1),)),)


def test_a_part_may_have_words_without_rows() -> None:
    ends = StepFrame(
        handles=FRAME.handles[:1],
        tokens=FRAME.tokens[:1],
        finished=(Finished(handle=Handle(TWO + 1), reason=FinishReason.ABORT),),
    )
    part = part_of(ends, number=2)
    assert part is not None
    assert part.handles.tolist() == []
    assert part.finished == ends.finished


def test_whoever_is_not_meant_hears_nothing() -> None:
    assert part_of(FRAME, number=3) is None


def test_a_frame_of_one_front_end_is_not_copied() -> None:
    part = part_of(part_of(FRAME, number=1) or FRAME, number=1)
    assert part is not None
    again = part_of(part, number=1)
    assert again is not None and again.handles is part.handles
