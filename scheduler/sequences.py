"""The table knows the sequences of an instance, their rows, and who shares pages.

    waiting    tokens and limit alone          no row, no page
    running    a row of the `RowTable`         pages of the `PrefixCache`, counted

The batcher, the grants and the reservations of an instance work on one table; each
changes only what its own docstring says. Pages become findable here, by the keys of
their contents, and never before a token was sampled from them.
"""

from collections import Counter
from typing import final

import numpy as np

from mell_jax.scheduler.ids import PageId, PageKey, Pages, Serial, SlotId, Tokens
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import (
    PrefixCache,
    next_key,
    page_keys,
    root_key,
)
from mell_jax.scheduler.rows import RowTable


@final
class SequenceTable:
    """The table owns rows, slots and page keys; `cache` owns the pages.

    Args:
      cache: new, of this instance alone.
      limits: sizes of a step; rows and their tokens are as many as it says.
      page_tokens: tokens of a page.
      shares_prefixes: whether pages of prompts become findable by others.

    Raises:
      ValueError: the pages cannot hold one sequence of the longest kind.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        limits: BatchLimits,
        page_tokens: int,
        shares_prefixes: bool,
    ) -> None:
        if not (cache.counts.total * page_tokens >= limits.max_tokens):
            raise ValueError(
                f"{cache.counts.total} pages of {page_tokens} tokens cannot hold one "
                f"sequence of {limits.max_tokens}: give more pages or a shorter context"
            )
        self.cache = cache
        self.rows = RowTable(
            num_slots=limits.max_rows,
            max_tokens=limits.max_tokens,
            page_tokens=page_tokens,
        )
        self.shares_prefixes = shares_prefixes
        self._running: dict[Serial, SlotId] = {}  # oldest admission first
        self._sequences: dict[Serial, Sequence] = {}  # waiting and running
        self._tenants: Counter[str] = Counter()  # of these
        self._keys: dict[Serial, list[PageKey]] = {}  # of their full pages, so far
        self._promised: dict[PageKey, Serial] = {}  # page contents being computed
        self._free_slots = list(range(limits.max_rows - 1, -1, -1))

    # -- questions ---------------------------------------------------------------

    @property
    def running(self) -> dict[Serial, SlotId]:
        """Returns the slots of rows, oldest admission first; do not change it."""
        return self._running

    @property
    def has_slot(self) -> bool:
        """Returns whether a row is free."""
        return bool(self._free_slots)

    @property
    def is_empty(self) -> bool:
        """Returns whether no sequence waits or runs."""
        return not self._sequences

    @property
    def is_shared(self) -> bool:
        """Returns whether several tenants have sequences here."""
        return len(self._tenants) > 1

    def knows(self, serial: Serial) -> bool:
        """Returns whether a sequence waits or runs."""
        return serial in self._sequences

    def sequence(self, serial: Serial) -> Sequence:
        """Returns a sequence as it was last remembered."""
        return self._sequences[serial]

    def slot_of(self, serial: Serial) -> SlotId:
        """Returns the slot of a running sequence."""
        return self._running[serial]

    def is_settled(self, serial: Serial) -> bool:
        """Returns whether no token of the sequence is on its way."""
        slot = self._running.get(serial)
        if slot is None:
            return self._sequences[serial].pending == 0
        return bool(self.rows.known[slot] == self.rows.total[slot])

    def computed(self, serial: Serial) -> int:
        """Returns the positions in a sequence's pages, the step in flight included."""
        slot = self._running.get(serial)
        return 0 if slot is None else int(self.rows.computed[slot])

    def tokens_since(self, serial: Serial, position: int) -> Tokens:
        """Returns a copy of the tokens that the host knows from `position` on."""
        slot = self._running.get(serial)
        if slot is None:
            return self._sequences[serial].tokens[position:].copy()
        return self.rows.known_tokens(slot)[position:]

    def pages_of(self, serial: Serial) -> Pages:
        """Returns a copy of a running sequence's pages, in prompt order."""
        return self.rows.pages_of(self._running[serial])

    def num_pages(self, serial: Serial) -> int:
        """Returns the number of a sequence's pages; 0 while it waits for a row."""
        slot = self._running.get(serial)
        return 0 if slot is None else int(self.rows.num_pages[slot])

    def count_cached(self, keys: list[PageKey]) -> int:
        """Returns how many of a prompt's pages, named by their keys, are here."""
        return len(self.cache.match(keys))

    # -- prefixes ----------------------------------------------------------------

    def usable_prefix(self, sequence: Sequence) -> Pages:
        """Returns the pages that a sequence may share instead of computing them.

        The last token is always computed: its logits are what the step is for.
        """
        if not sequence.reads_cache:
            return np.zeros(0, np.int32)
        return self.cache.match(self._readable(sequence))

    def awaits_prefix(self, sequence: Sequence, *, matched: Pages) -> bool:
        """Returns whether another row computes the page after `matched` right now."""
        if not sequence.reads_cache:
            return False
        wanted = self._readable(sequence)[len(matched) :]
        return bool(wanted) and wanted[0] in self._promised

    def _readable(self, sequence: Sequence) -> list[PageKey]:
        most = (len(sequence.tokens) - 1) // self.rows.page_tokens
        return self._keys[sequence.serial][:most]

    def promise(self, serial: Serial, *, first_page: int) -> None:
        """Lets others wait for the pages of a prompt that its row will compute."""
        for key in self._keys[serial][first_page:]:
            self._promised.setdefault(key, serial)

    def publish(self, slot: SlotId, *, until: int) -> None:
        """Makes the pages of a slot before page `until` findable."""
        size = self.rows.page_tokens
        serial = Serial(int(self.rows.serial[slot]))
        keys = self._keys[serial]
        for page in range(int(self.rows.published[slot]), until):
            if page == len(keys):  # filled by generated tokens
                parent = keys[-1] if keys else root_key(self._sequences[serial].salt)
                tokens = self.rows.tokens[slot, page * size : (page + 1) * size]
                keys.append(next_key(parent, tokens))
            self.cache.insert(keys[page], PageId(int(self.rows.page_table[slot, page])))
            if self._promised.get(keys[page]) == serial:
                del self._promised[keys[page]]
        self.rows.published[slot] = until

    def distrust(self, serial: Serial) -> None:
        """Makes a sequence's pages unfindable, those that it has left too."""
        slot = self._running.get(serial)
        if slot is None:
            self.cache.forget(self.cache.match(self._keys[serial]))
        else:
            self.cache.forget(self.rows.pages_of(slot))

    # -- coming and going --------------------------------------------------------

    def remember(self, sequence: Sequence) -> None:
        """Notes a sequence, new or with other tokens than before."""
        if sequence.serial not in self._sequences:
            self._tenants[sequence.tenant.name] += 1
        self._sequences[sequence.serial] = sequence
        self._keys[sequence.serial] = (
            page_keys(
                sequence.tokens,
                page_tokens=self.rows.page_tokens,
                salt=sequence.salt,
            )
            if self.shares_prefixes
            else []
        )

    def forget(self, serial: Serial) -> None:
        """Forgets a sequence that has no row."""
        assert serial not in self._running, f"sequence {serial} has a row"
        tenant = self._sequences[serial].tenant.name
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        del self._keys[serial], self._sequences[serial]

    def room_beside(self, matched: Pages) -> int:
        """Returns how many pages could be taken once `matched` are shared."""
        return self.cache.num_available - self.cache.count_idle(matched)

    def enter(self, sequence: Sequence, *, matched: Pages, new_pages: int) -> SlotId:
        """Gives a remembered sequence a free slot, shared pages and `new_pages`."""
        self.cache.acquire(matched)
        slot = SlotId(self._free_slots.pop())
        self.rows.occupy(
            slot,
            serial=sequence.serial,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            limit=sequence.limit,
            pages=np.concatenate([matched, self.cache.allocate(new_pages)]),
            computed=len(matched) * self.rows.page_tokens,
        )
        self._running[sequence.serial] = slot
        return slot

    def leave(self, serial: Serial) -> None:
        """Takes a running sequence's row and pages away; it stays remembered."""
        slot = self._running.pop(serial)
        for key in self._keys[serial]:
            if self._promised.get(key) == serial:
                del self._promised[key]
        self.cache.release(self.rows.pages_of(slot))
        self.rows.vacate(slot)
        self._free_slots.append(slot)
