"""The baselines relieve an instance that is too full: it sheds a few requests."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft


class Sized(Protocol):
    """Something that holds pages: a request, or several that move as one."""

    @property
    def pages(self) -> int: ...


SizedT = TypeVar("SizedT", bound=Sized)


def reserve_of(headroom: float) -> Callable[[int], int]:
    """Returns how many pages a placement leaves free, by an instance's capacity."""
    return lambda capacity: int(headroom * capacity)


def cover(items: Iterable[SizedT], lack: int) -> list[SizedT]:
    """Few items that hold at least `lack` pages, if all of them do.

    The smallest that is enough alone; else the largest, and what covers the rest.
    """
    rest = sorted(items, key=lambda item: item.pages)
    chosen = []
    while rest and lack > 0:
        enough = (i for i, item in enumerate(rest) if item.pages >= lack)
        item = rest.pop(next(enough, -1))
        chosen.append(item)
        lack -= item.pages
    return chosen


def shed(
    draft: Draft,
    instance: InstanceAccount,
    *,
    lack: int,
    find: Callable[[Draft, RequestAccount], InstanceAccount | None],
) -> None:
    """Moves requests that cover `lack` to where `find` says; stops where it says None.

    `find` may answer with the instance itself, which ends it as well.
    """
    for request in cover(instance.requests.values(), lack):
        target = find(draft, request)
        if target is None or target is instance:
            return
        draft.shift(request, target.device)
