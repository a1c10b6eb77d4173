"""The page map says which page of the pool holds which of a sequence's pages.

One table for each group of layers (`cache_spec`), one row for each slot:

    table[group, slot]   0 0 9 4 0 0      pages `first` to `end`, 0 where there is none

It takes no page and frees none: its owner, the table of sequences, does.
"""

import numpy as np

from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import Pages, SlotId


class PageMap:
    """The map of `num_slots` sequences of at most `max_pages` each."""

    def __init__(self, spec: CacheSpec, *, num_slots: int, max_pages: int) -> None:
        self.spec = spec
        self.max_pages = max_pages
        self.table = np.zeros((spec.num_groups, num_slots, max_pages), np.int32)
        self.first = np.zeros((spec.num_groups, num_slots), np.int32)
        self.end = np.zeros((spec.num_groups, num_slots), np.int32)

    @property
    def mapped(self) -> Pages:
        """Returns how many pages of each slot have a place in every group: [slots]."""
        least: Pages = self.end.min(axis=0)
        return least

    def clear(self, slot: SlotId) -> None:
        """Forgets a slot's pages."""
        self.table[:, slot] = 0
        self.first[:, slot] = self.end[:, slot] = 0

    def pages_of(self, slot: SlotId) -> Pages:
        """Returns a copy of all pages of a slot: group by group, in prompt order."""
        parts = [
            self.table[group, slot, self.first[group, slot] : self.end[group, slot]]
            for group in range(self.spec.num_groups)
        ]
        return np.concatenate(parts)

    def is_full(self, group: int, slot: SlotId) -> bool:
        """Returns whether the next page takes the place of the oldest."""
        ring = self.spec.groups[group].ring
        held = self.end[group, slot] - self.first[group, slot]
        return ring is not None and bool(held >= ring)

    def append(self, group: int, slot: SlotId, page: int) -> None:
        """Adds a page to the end of a slot's."""
        end = self.end[group, slot]
        self.table[group, slot, end] = page
        self.end[group, slot] = end + 1

    def pop_first(self, group: int, slot: SlotId) -> int:
        """Takes the oldest page of a slot away."""
        first = self.first[group, slot]
        page = int(self.table[group, slot, first])
        self.table[group, slot, first] = 0
        self.first[group, slot] = first + 1
        return page
