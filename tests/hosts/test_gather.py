"""Frames of hosts become rows, and rows become frames again, whoever took them."""

import numpy as np

from mell_jax.engine.frames import (
    Finished,
    FinishReason,
    Handle,
    Logprobs,
    NewVersion,
    PromptDone,
    StepFrame,
)
from mell_jax.engine.hosts import wires
from mell_jax.hosts.gather import Gathered, RowData, told_rows
from mell_jax.hosts.loads import NO_LOAD, sum_of
from mell_jax.hosts.split import part_of
from mell_jax.hosts.wire import HostFrame
from mell_jax.scheduler.hosts.messages import Row
from mell_jax.scheduler.ids import FRONT_BITS, CopyId, FrontId, RequestId

LEFT, RIGHT = (FrontId(1) << FRONT_BITS), (FrontId(2) << FRONT_BITS)
END = Finished(handle=Handle(RIGHT + 1), reason=FinishReason.STOP)
FRAME = StepFrame(
    handles=np.array([LEFT + 1, RIGHT + 1, LEFT + 2], np.int64),
    tokens=np.array([11, 12, 13], np.int32),
    logprobs=Logprobs(
        chosen=np.array([-0.1, -0.2, -0.3], np.float32),
        top_ids=np.array([[11], [5], [13]], np.int32),
        top=np.array([[-0.1], [-0.05], [-0.3]], np.float32),
    ),
    prompts=(PromptDone(handle=Handle(LEFT + 2), cached_tokens=16, logprobs=None),),
    versions=(
        NewVersion(version="second", handles=(Handle(LEFT + 1), Handle(RIGHT + 1))),
    ),
    finished=(END,),
)
COPIES, STARTS = np.array([7, 8, 9], np.int64), np.array([3, 0, 4], np.int32)
ENDS = ((CopyId(8), 1),)
TOLD = HostFrame(frame=FRAME, copies=COPIES, starts=STARTS, ends=ENDS)


def test_a_frame_is_rows_with_all_that_belongs_to_them() -> None:
    first, second, third, end = told_rows(TOLD)
    assert (first.request, first.copy_id, first.start) == (LEFT + 1, 7, 3)
    assert (second.tokens, third.tokens, end.tokens) == ((12,), (13,), ())
    assert [row.is_end for row in (first, second, third, end)] == [False] * 3 + [True]
    assert (end.request, end.copy_id, end.start) == (RIGHT + 1, 8, 1)
    data = second.data
    assert isinstance(data, RowData)
    assert data.logprobs is not None
    assert data.logprobs.top_ids.tolist() == [[5]]
    assert data.version == "second"
    assert isinstance(third.data, RowData)
    assert third.data.prompt == FRAME.prompts[0]
    assert third.data.version is None
    assert isinstance(end.data, RowData)
    assert end.data.finished == END


def test_what_was_taken_is_a_frame_by_the_handles_of_clients() -> None:
    gathered = Gathered()
    handles = {LEFT + 1: Handle(1), RIGHT + 1: Handle(2), LEFT + 2: Handle(3)}
    for row in told_rows(TOLD):
        finished = gathered.add(row, handle=handles[row.request])
        if finished is not None:
            gathered.end(finished)
    frame = gathered.take()
    assert frame is not None
    assert frame.handles.tolist() == [1, 2, 3]
    assert frame.tokens.tolist() == [11, 12, 13]
    assert frame.logprobs is not None
    assert frame.logprobs.top_ids.tolist() == [[11], [5], [13]]
    assert frame.prompts == (
        PromptDone(handle=Handle(3), cached_tokens=16, logprobs=None),
    )
    assert frame.versions == (
        NewVersion(version="second", handles=(Handle(1),)),
        NewVersion(version="second", handles=(Handle(2),)),
    )
    assert frame.finished == (Finished(handle=Handle(2), reason=FinishReason.STOP),)
    assert gathered.take() is None


def row_of(copy_id: int, *, start: int, version: str) -> Row:
    prompt = PromptDone(handle=Handle(LEFT + 1), cached_tokens=copy_id, logprobs=None)
    return Row(
        request=RequestId(LEFT + 1),
        copy_id=CopyId(copy_id),
        start=start,
        tokens=(start,),
        data=RowData(prompt=prompt, version=version),
    )


def test_a_client_hears_of_its_prompt_and_of_a_version_once() -> None:
    gathered = Gathered()
    gathered.add(row_of(7, start=0, version="first"), handle=Handle(1))
    first = gathered.take()
    gathered.add(row_of(9, start=1, version="first"), handle=Handle(1))
    gathered.add(row_of(9, start=2, version="second"), handle=Handle(1))
    second = gathered.take()
    assert first is not None and second is not None
    assert [done.cached_tokens for done in first.prompts] == [7]
    assert second.prompts == ()
    assert [new.version for new in first.versions] == ["first"]
    assert [new.version for new in second.versions] == ["second"]


def test_an_end_forgets_what_a_client_was_told() -> None:
    gathered = Gathered()
    for _ in range(2):  # a handle that comes again is another client
        gathered.add(row_of(7, start=0, version="first"), handle=Handle(1))
        gathered.end(Finished(handle=Handle(1), reason=FinishReason.ABORT))
        frame = gathered.take()
        assert frame is not None
        assert len(frame.prompts) == len(frame.versions) == 1


def test_front_ends_get_the_rows_of_their_own_requests() -> None:
    told = wires.HostFrame(frame=FRAME, copies=COPIES, starts=STARTS, ends=ENDS)
    left = part_of(told, front=FrontId(1))
    right = part_of(told, front=FrontId(2))
    assert left is not None and right is not None
    assert left.frame.tokens.tolist() == [11, 13]
    assert (left.copies.tolist(), left.starts.tolist()) == ([7, 9], [3, 4])
    assert left.ends == ()
    assert right.frame.tokens.tolist() == [12]
    assert (right.copies.tolist(), right.starts.tolist()) == ([8], [0])
    assert (right.ends, right.frame.finished) == (ENDS, (END,))
    assert part_of(told, front=FrontId(3)) is None


def test_loads_are_added_up() -> None:
    busy = {name: 3 for name in ("running", "used_pages", "steps")}
    one = type(NO_LOAD)(
        **{
            **{name: 0 for name in _NUMBERS},
            **busy,
        }
    )
    both = sum_of([one, one])
    assert (both.running, both.used_pages, both.steps, both.waiting) == (6, 6, 6, 0)
    assert sum_of([]) == NO_LOAD


_NUMBERS = (
    *("running", "waiting", "waiting_tokens", "used_pages", "cached_pages"),
    *("free_pages", "generated_tokens", "prefix_hit_tokens", "prefix_query_tokens"),
    *("preemptions", "steps", "compilations"),
)
