"""Short names for what hosts, front ends and the controller say in tests."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.stream import Place
from mell_jax.scheduler.ids import (
    FRONT_BITS,
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    RequestId,
)
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.transfer import Mode

FRONT, OTHER_FRONT = FrontId(3), FrontId(4)
ONE, TWO = RequestId((3 << FRONT_BITS) + 1), RequestId((3 << FRONT_BITS) + 2)
THEIRS = RequestId((4 << FRONT_BITS) + 1)  # of the other front end
HERE, THERE = Epoch(10), Epoch(20)
LEFT, RIGHT = DeviceGroupId(1), DeviceGroupId(2)
NEVER = CopyId(0)


def ask(request: RequestId = ONE, *, known: int = 4, pages: int = 2) -> words.Ask:
    """A request of four tokens, of which `known` are there."""
    return words.Ask(
        request=request,
        model=ONLY_MODEL,
        prompt=4,
        known=known,
        pages=pages,
        peak_pages=None,
    )


def place(copy_id: int, epoch: Epoch = HERE, device: DeviceGroupId = LEFT) -> Place:
    return Place(copy_id=CopyId(copy_id), epoch=epoch, device=device)


def row(
    copy_id: int,
    start: int,
    *tokens: int,
    request: RequestId = ONE,
    is_end: bool = False,
) -> words.Row:
    return words.Row(
        request=request,
        copy_id=CopyId(copy_id),
        start=start,
        tokens=tokens,
        is_end=is_end,
    )


def start(copy_id: int, *, known: int = 4, request: RequestId = ONE) -> messages.Start:
    return messages.Start(
        request=request, copy_id=CopyId(copy_id), known=known, horizon=NEVER
    )


def reserve(copy_id: int, *, request: RequestId = ONE) -> messages.Reserve:
    return messages.Reserve(
        request=request,
        copy_id=CopyId(copy_id),
        mode=Mode.KV,
        pages=2,
        known=4,
        horizon=NEVER,
    )


def commit(copy_id: int, *tail: int, request: RequestId = ONE) -> messages.Commit:
    """The source has brought this tail since the prompt."""
    return messages.Commit(request=request, copy_id=CopyId(copy_id), since=4, tail=tail)


def release(copy_id: int, *, request: RequestId = ONE) -> messages.Release:
    return messages.Release(request=request, copy_id=CopyId(copy_id), horizon=NEVER)


def gone(copy_id: int, *, request: RequestId = ONE) -> words.Gone:
    return words.Gone(request=request, copy_id=CopyId(copy_id))


def host(epoch: Epoch, *devices: DeviceGroupId) -> words.Host:
    return words.Host(epoch=epoch, name=f"host of {epoch}", devices=devices)
