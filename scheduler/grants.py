"""Grants bound how far rows may compute: pages come from outside, rows can be held.

    granted   |----------------|            computed up to here, then the row waits
    computed  |---------->   ^              AHEAD_TOKENS before the end it asks for more
    gated     |------------>|               what comes after waits for a mask
    held      |---------->|                 stands still until it is resumed

Grants are those of the placement machine; a sequence without one has no ceiling.
"""

from enum import Enum
from typing import final

import numpy as np

from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.rows import NO_CEILING
from mell_jax.scheduler.sequences import SequenceTable

AHEAD_TOKENS = 3
"""So many tokens before its last page is full a row asks for the next one: time for a
move that makes the room, while it still decodes."""


class PageGrowth(Enum):
    """The growth says what becomes of a row that needs a page when none is left."""

    WAIT = "it waits; whoever grants pages makes room"
    PREEMPT = "the newest sequence gives up its pages and is computed again"


@final
class Grants:
    """Grants own the ceilings of rows, and nothing else of the table."""

    def __init__(self, sequences: SequenceTable) -> None:
        self._sequences = sequences
        self._rows = sequences.rows
        self._granted: dict[Serial, int] = {}  # positions
        self._gates: dict[Serial, int] = {}  # positions
        self._held: set[Serial] = set()

    def grant(self, serial: Serial, *, pages: int) -> None:
        """Lets a sequence have `pages` of the pool; a held one when it resumes."""
        most = self._rows.pages.max_pages
        reach = self._sequences.spec.reach(pages, most=most)
        self._granted[serial] = reach * self._rows.page_tokens
        self.apply(serial)

    def gate(self, serial: Serial, *, positions: int) -> None:
        """Lets a sequence compute so many positions and no more, until told again.

        What is sampled at the last of them may need something that is not there yet.
        """
        self._gates[serial] = positions
        self.apply(serial)

    def is_gated(self, serial: Serial, *, tokens: int) -> bool:
        """Returns whether a sequence of so many tokens may not sample the next one."""
        return self._gates.get(serial, tokens) < tokens

    def wanting(self) -> list[tuple[Serial, int]]:
        """Returns rows near the end of what they were granted, and the pages of the
        pool that they would hold with one page more.
        """
        rows = self._rows
        nears = rows.computed + AHEAD_TOKENS >= rows.ceiling
        if not nears.any():
            return []  # as in most steps; free slots have no ceiling
        nears &= rows.total < rows.limit
        found = []
        for slot in np.flatnonzero(nears):
            serial = Serial(int(rows.serial[slot]))
            granted = self._granted.get(serial)
            if granted is None or granted + 1 >= rows.limit[slot]:
                continue  # a reservation, or all that it may ever want
            if rows.computed[slot] + AHEAD_TOKENS >= granted:
                pages = granted // rows.page_tokens + 1
                found.append((serial, self._sequences.spec.held(pages)))
        return found

    def hold(self, serial: Serial) -> None:
        """Takes a sequence out of the batch, in its place; `resume` undoes it."""
        self._held.add(serial)
        self._set_ceiling(serial, self._sequences.computed(serial))

    def resume(self, serial: Serial) -> None:
        """Lets a held sequence go on, up to what it was granted meanwhile."""
        self._held.discard(serial)
        self.apply(serial)

    def is_held(self, serial: Serial) -> bool:
        """Returns whether a sequence stands still."""
        return serial in self._held

    def apply(self, serial: Serial) -> None:
        """Sets the ceiling of a sequence; one that is held stays where it is."""
        if serial not in self._held:
            granted = self._granted.get(serial, NO_CEILING)
            self._set_ceiling(serial, min(granted, self._gates.get(serial, NO_CEILING)))

    def forget(self, serial: Serial) -> None:
        """Drops what a sequence was granted; it is over."""
        self._held.discard(serial)
        self._granted.pop(serial, None)
        self._gates.pop(serial, None)

    def _set_ceiling(self, serial: Serial, positions: int) -> None:
        slot = self._sequences.running.get(serial)
        if slot is not None:
            self._rows.ceiling[slot] = positions
