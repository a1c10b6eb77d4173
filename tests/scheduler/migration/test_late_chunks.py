"""Chunks that were cut differently, and openings that bring news of the horizon."""

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.transfer import Mode

ONE, COPY = RequestId(1), CopyId(9)
HERE, THERE = DeviceGroupId(0), DeviceGroupId(1)


def reserve(copy_id: CopyId, *, horizon: int) -> messages.Reserve:
    return messages.Reserve(
        request=ONE,
        copy_id=copy_id,
        mode=Mode.KV,
        pages=8,
        known=100,
        horizon=CopyId(horizon),
    )


def chunk(first: int, end: int) -> messages.Chunk:
    return messages.Chunk(
        request=ONE,
        copy_id=COPY,
        from_copy_id=CopyId(7),
        source=THERE,
        mode=Mode.KV,
        first=first,
        end=end,
        is_last=False,
    )


def endpoint() -> Endpoint:
    return Endpoint(HERE, limits=StagingLimits(page_tokens=16), horizon=CopyId(5))


def test_a_chunk_that_does_not_begin_where_the_last_one_ended_is_not_written() -> None:
    here = endpoint()
    here.step(reserve(COPY, horizon=5))
    here.step(events.Took(request=ONE, copy_id=COPY, cached=16))
    assert here.step(chunk(0, 32)) == ()  # before what is there
    assert here.step(chunk(32, 64)) == ()  # behind it
    (written,) = here.step(chunk(16, 48))
    assert isinstance(written, effects.WriteChunk)
    assert (written.first, written.end) == (16, 48)
    here.step(events.Written(request=ONE, copy_id=COPY, end=48))
    assert here.step(chunk(32, 64)) == ()


def test_an_opening_cuts_the_memory_of_what_was_released() -> None:
    here = endpoint()
    for copy_id in (6, 7):
        here.step(
            messages.Release(request=ONE, copy_id=CopyId(copy_id), horizon=CopyId(5))
        )
    assert here._released == {6, 7}
    here.step(reserve(COPY, horizon=7))
    assert here._released == {7}
    here.step(reserve(CopyId(10), horizon=9))
    assert here._released == set()
