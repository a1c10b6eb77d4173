"""The cheapest fleet for a few requests, by trying every one."""

import itertools
import math
from collections.abc import Sequence

from mell_jax.scheduler.price_bound import Offer


def can_pack(sizes: Sequence[int], rooms: Sequence[int]) -> bool:
    """Tells whether requests of these pages fit into devices of these, uncut."""
    failed: set[tuple[int, tuple[int, ...]]] = set()
    order = sorted(sizes, reverse=True)

    def place(at: int, left: tuple[int, ...]) -> bool:
        if at == len(order):
            return True
        if (at, left) in failed:
            return False
        for number, room in enumerate(left):
            if room >= order[at]:
                rest = (*left[:number], room - order[at], *left[number + 1 :])
                if place(at + 1, tuple(sorted(rest))):
                    return True
        failed.add((at, left))
        return False

    return place(0, tuple(sorted(rooms)))


def cheapest(sizes: Sequence[int], offers: Sequence[Offer]) -> float:
    """Returns the least price an hour of devices that hold all; inf if none do."""
    most = [int(min(offer.count, len(sizes))) for offer in offers]
    best = math.inf
    for counts in itertools.product(*(range(count + 1) for count in most)):
        paid = math.fsum(
            n * offer.price_per_hour for n, offer in zip(counts, offers, strict=True)
        )
        rooms = [
            offer.spec.capacity_pages
            for n, offer in zip(counts, offers, strict=True)
            for _ in range(n)
        ]
        if paid < best and can_pack(sizes, rooms):
            best = paid
    return best
