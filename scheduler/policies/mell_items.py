"""MELL packs requests by size class, and small ones in bundles.

    share of C   0 ..... 1/8 ..... 1/4 ..... 1/3 ..... 1/2 ..... 1
    class         SMALL       T         S         M         L

The small requests of an instance, in their order there, are cut into bundles as soon as
one holds more than C/8: the paper's multi-items, at most C/4 each and treated as a T.
What is left over is the instance's open bundle. Bundles are a way to look at an
instance, so a member that grows, leaves or joins needs no bookkeeping. Source: MELL,
arXiv 2501.06709; that the bundles are cut anew every time is ours.
"""

from dataclasses import dataclass
from enum import IntEnum

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.ledger import Ledger


class Size(IntEnum):
    """Size classes, in order."""

    SMALL = 0
    T = 1
    S = 2
    M = 3
    L = 4


def size_of(pages: int, *, capacity: int) -> Size:
    """The class of a request of `pages` where an instance holds `capacity`."""
    eighth, quarter, third, half = borders(capacity)
    if pages <= eighth:
        return Size.SMALL
    if pages <= quarter:
        return Size.T
    if pages <= third:
        return Size.S
    return Size.M if pages <= half else Size.L


def borders(capacity: int) -> tuple[int, int, int, int]:
    """The most pages of a SMALL, a T, an S and an M."""
    return capacity // 8, capacity // 4, capacity // 3, capacity // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A request, or a bundle that moves as one; SMALL is an open bundle."""

    requests: tuple[RequestAccount, ...]
    pages: int
    size: Size


def single(ledger: Ledger, request: RequestAccount) -> Item:
    """One request as an item of its own."""
    pages = ledger.wanted_pages(request)
    size = size_of(pages, capacity=ledger.spec(request.model).capacity_pages)
    return Item(requests=(request,), pages=pages, size=size)


def items_of(ledger: Ledger, instance: InstanceAccount) -> list[Item]:
    """Lists what lives on an instance and may be moved, in its order there."""
    capacity = ledger.spec(instance.model).capacity_pages
    items: list[Item] = []
    members: list[RequestAccount] = []
    pages = 0
    for request in instance.requests.values():
        item = single(ledger, request)
        if item.size is not Size.SMALL:
            items.append(item)
            continue
        members.append(request)
        pages += item.pages
        if size_of(pages, capacity=capacity) is not Size.SMALL:
            items.append(Item(requests=tuple(members), pages=pages, size=Size.T))
            members, pages = [], 0
    if members:
        items.append(Item(requests=tuple(members), pages=pages, size=Size.SMALL))
    return items
