"""The table knows the sequences of an instance, their rows, and who shares pages.

    waiting    tokens and limit alone          no row, no page
    running    a row of the `RowTable`         pages of the `PrefixCache`, counted

The batcher, the grants and the reservations of an instance work on one table; each
changes only what its own docstring says. Pages become findable here, by the keys of
their contents, and never before a token was sampled from them.
"""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from typing import final

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import PageId, PageKey, Pages, Serial, SlotId, Tokens
from mell_jax.scheduler.pages import SCRATCH_PAGE
from mell_jax.scheduler.plan import BatchLimits, Places, Sequence
from mell_jax.scheduler.prefix_cache import (
    PrefixCache,
    Stored,
    group_key,
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
      spec: which pages a sequence holds.
      shares_prefixes: whether pages of prompts become findable by others.

    Raises:
      ValueError: the pages cannot hold one sequence of the longest kind.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        limits: BatchLimits,
        spec: CacheSpec,
        shares_prefixes: bool,
    ) -> None:
        if not (cache.counts.total >= spec.held_by(limits.max_tokens)):
            raise ValueError(
                f"{cache.counts.total} pages of {spec.page_tokens} tokens cannot hold "
                f"one sequence of {limits.max_tokens}: give more pages or a shorter "
                "context"
            )
        self.cache = cache
        self.spec = spec
        self.rows = RowTable(
            num_slots=limits.max_rows, max_tokens=limits.max_tokens, cache=spec
        )
        self.pages = self.rows.pages
        self.shares_prefixes = shares_prefixes
        self.generation = 0  # of the weights that compute
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

    def count_known(self, serial: Serial) -> int:
        """Returns how many tokens of a sequence the host knows."""
        slot = self._running.get(serial)
        if slot is None:
            return len(self._sequences[serial].tokens)
        return int(self.rows.known[slot])

    def tokens_since(self, serial: Serial, position: int) -> Tokens:
        """Returns a copy of the tokens that the host knows from `position` on."""
        slot = self._running.get(serial)
        if slot is None:
            return self._sequences[serial].tokens[position:].copy()
        return self.rows.known_tokens(slot)[position:]

    def pages_of(self, serial: Serial) -> Pages:
        """Returns a copy of a running sequence's pages: by group, in prompt order."""
        return self.pages.pages_of(self._running[serial])

    def places(self, serial: Serial, *, first: int, end: int) -> Places:
        """Returns where the pages of positions `first` to `end` are, as far as the
        token at `end` sees them.
        """
        slot, spec = self._running[serial], self.spec
        groups, along = [], []
        for group in range(spec.num_groups):
            seen = range(
                max(
                    first // spec.page_tokens,
                    spec.first_seen(group, position=end),
                    int(self.pages.first[group, slot]),
                ),
                min(spec.pages(end), int(self.pages.end[group, slot])),
            )
            groups += [group] * len(seen)
            along += list(seen)
        return Places(
            groups=np.array(groups, np.int32), along=np.array(along, np.int32)
        )

    def pages_at(self, serial: Serial, places: Places) -> Pages:
        """Returns the pages in some places; the scratch page where there is none."""
        slot = self._running[serial]
        found: Pages = self.pages.table[places.groups, slot, places.along]
        return found

    def count_cached(self, keys: list[PageKey]) -> int:
        """Returns how many of a prompt's pages, named by their keys, are here."""
        return int(self._match(keys).shape[1])

    def held_cached(self, keys: list[PageKey]) -> int:
        """Returns how many pages of the pool those of a prompt are that are here."""
        return self.spec.held(self.count_cached(keys))

    # -- prefixes ----------------------------------------------------------------

    def usable_prefix(self, sequence: Sequence) -> Pages:
        """Returns the pages that a sequence may share instead of computing: [G, m].

        The scratch page stands for those that a window does not see. The last token is
        always computed: its logits are what the step is for.
        """
        if not sequence.reads_cache:
            return np.zeros((self.spec.num_groups, 0), np.int32)
        return self._match(self._readable(sequence))

    def _match(self, keys: list[PageKey]) -> Pages:
        """Returns the longest prefix of which everything is here that is seen: [G, m].

        A group that sees all needs every page, one with a window those that the token
        after the prefix sees.
        """
        if self.spec.is_plain:
            return self.cache.match(keys)[None]
        known = np.stack(
            [
                self.cache.find(group_key(key, group) for key in keys)
                for group in range(self.spec.num_groups)
            ]
        )
        length = self._longest(known != SCRATCH_PAGE)
        matched = known[:, :length]
        for group in range(self.spec.num_groups):
            matched[group, : self._first_after(group, pages=length)] = SCRATCH_PAGE
        return matched

    def _longest(self, is_known: npt.NDArray[np.bool_]) -> int:
        """Returns the longest usable prefix, in pages, of those known: [G, pages]."""
        best, since = 0, [0] * self.spec.num_groups  # where known pages began
        for length in range(1, is_known.shape[1] + 1):
            for group, is_there in enumerate(is_known[:, length - 1].tolist()):
                if not is_there:
                    since[group] = length
            if all(
                begin <= self._first_after(group, pages=length)
                for group, begin in enumerate(since)
            ):
                best = length
        return best

    def _first_after(self, group: int, *, pages: int) -> int:
        """Returns the first page that the token after `pages` sees in a group."""
        return self.spec.first_seen(group, position=pages * self.spec.page_tokens)

    def awaits_prefix(self, sequence: Sequence, *, matched: Pages) -> bool:
        """Returns whether another row computes the page after `matched` right now."""
        if not sequence.reads_cache:
            return False
        wanted = self._readable(sequence)[matched.shape[1] :]
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
        keys, sequence = self._keys[serial], self._sequences[serial]
        since = until if sequence.is_mixed else int(self.rows.published[slot])
        for page in range(since, until):
            if page == len(keys):  # filled by generated tokens
                root = root_key(sequence.salt, generation=self.generation)
                parent = keys[-1] if keys else root
                tokens = self.rows.tokens[slot, page * size : (page + 1) * size]
                keys.append(next_key(parent, tokens))
            for group, held in enumerate(self.pages.table[:, slot, page].tolist()):
                if held != SCRATCH_PAGE:
                    self._make_findable(slot, page=page, group=group, held=PageId(held))
            if self._promised.get(keys[page]) == serial:
                del self._promised[keys[page]]
        self.rows.published[slot] = until

    def _make_findable(
        self, slot: SlotId, *, page: int, group: int, held: PageId
    ) -> None:
        keys = self._keys[Serial(int(self.rows.serial[slot]))]
        is_new = self.cache.insert(group_key(keys[page], group), held)
        if not is_new or self.cache.news is None:
            return
        size = self.rows.page_tokens
        tokens = self.rows.tokens[slot, page * size : (page + 1) * size]
        stored = Stored(
            key=group_key(keys[page], group),
            parent=group_key(keys[page - 1], group) if page else None,
            tokens=tuple(tokens.tolist()),
            group=group,
        )
        self.cache.news.append(stored)

    def distrust(self, serial: Serial) -> None:
        """Makes a sequence's pages unfindable, those that it has left too."""
        slot = self._running.get(serial)
        if slot is not None:
            self.cache.forget(self.pages.pages_of(slot))
            return
        for group in range(self.spec.num_groups):
            keys = (group_key(key, group) for key in self._keys[serial])
            found = self.cache.find(keys)
            self.cache.forget(found[found != SCRATCH_PAGE])

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
                generation=self.generation,
            )
            if self.shares_prefixes and not sequence.is_mixed
            else []
        )

    def turn(self, *, generation: int, mixed: Set[Serial]) -> None:
        """Has weights of another generation compute all sequences from now on.

        Nobody waits any more for what the old ones would have computed.

        Args:
          generation: of the weights.
          mixed: of the running ones, those whose pages hold something; so they are
            until these are given up.
        """
        self.generation = generation
        self._promised.clear()
        for serial, known in list(self._sequences.items()):
            self.remember(replace(known, is_mixed=serial in mixed))
            if serial in self._running:
                self.promise(serial, first_page=0)

    def append(self, serial: Serial, tokens: Tokens) -> None:
        """Adds tokens to a sequence that the host knows."""
        slot = self._running.get(serial)
        if slot is not None:
            self.rows.append(slot, tokens)
            return
        known = self._sequences[serial]
        everything = np.concatenate([known.tokens, tokens])
        self.remember(replace(known, tokens=everything))

    def forget(self, serial: Serial) -> None:
        """Forgets a sequence that has no row."""
        assert serial not in self._running, f"sequence {serial} has a row"
        tenant = self._sequences[serial].tenant.name
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        del self._keys[serial], self._sequences[serial]

    def has_room(self, matched: Pages, *, pages: int, spare: int = 0) -> bool:
        """Returns whether a sequence of `pages` could enter that shares `matched`.

        Args:
          spare: pages that have to be left.
        """
        idle = self.cache.count_idle(matched[matched != SCRATCH_PAGE])
        ends = self._ends_at_entry(matched, pages)
        needed = sum(ends) - len(ends) * int(matched.shape[1])
        return needed + spare <= self.cache.num_available - idle

    def enter(self, sequence: Sequence, *, matched: Pages, pages: int) -> SlotId:
        """Gives a remembered sequence a free slot, shared pages and `pages` in all.

        Groups with a window get as many as their ring has; `extend` turns it.
        """
        self.cache.acquire(matched[matched != SCRATCH_PAGE])
        slot = SlotId(self._free_slots.pop())
        shared = matched.shape[1]
        for group, end in enumerate(self._ends_at_entry(matched, pages)):
            fresh = self.cache.allocate(end - shared)
            self.pages.table[group, slot, :shared] = matched[group]
            self.pages.table[group, slot, shared:end] = fresh
            self.pages.first[group, slot] = self._first_after(group, pages=shared)
            self.pages.end[group, slot] = end
        self.rows.occupy(
            slot,
            serial=sequence.serial,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            limit=sequence.limit,
            computed=shared * self.rows.page_tokens,
        )
        self._running[sequence.serial] = slot
        return slot

    def _ends_at_entry(self, matched: Pages, pages: int) -> list[int]:
        """Returns up to which page each group is mapped when a sequence enters."""
        shared = matched.shape[1]
        ends = []
        for group, each in enumerate(self.spec.groups):
            first = self._first_after(group, pages=shared)
            most = pages if each.ring is None else min(pages, first + each.ring)
            ends.append(max(most, shared))
        return ends

    def pages_needed(self, slot: SlotId, *, pages: int, turns: bool = True) -> int:
        """Returns how many pages `extend` would take that are not there already."""
        needed = 0
        for group, each in enumerate(self.spec.groups):
            first = int(self.pages.first[group, slot])
            end = int(self.pages.end[group, slot])
            more = max(pages - end, 0)
            fresh = more
            if each.ring is not None:
                fresh = min(more, max(each.ring - (end - first), 0))
            needed += fresh
            if turns:
                turned = self.pages.table[group, slot, first : first + more - fresh]
                needed += sum(map(self.cache.is_shared, turned.tolist()))
        return needed

    def extend(self, slot: SlotId, *, pages: int, turns: bool = True) -> None:
        """Lets a row have `pages`: new ones, or the oldest of a ring that is full.

        Args:
          slot: of the row.
          pages: in all, along the sequence.
          turns: lets full rings go on; else they stay where they are.
        """
        for group in range(self.spec.num_groups):
            for _ in range(int(self.pages.end[group, slot]), pages):
                if self.pages.is_full(group, slot):
                    if not turns:
                        break
                    page = self._turn(group, slot)
                else:
                    page = PageId(int(self.cache.allocate(1)[0]))
                self.pages.append(group, slot, page)

    def _turn(self, group: int, slot: SlotId) -> PageId:
        """Takes the oldest page out of a full ring; returns one in its place.

        What it holds of a prompt stays findable; answers begin with it again, while few
        begin with a part of an answer.
        """
        end = int(self.pages.first[group, slot] + 1) * self.spec.page_tokens
        oldest = PageId(self.pages.pop_first(group, slot))
        return self.cache.renew(oldest, keeps=end <= int(self.rows.prompt[slot]))

    def leave(self, serial: Serial) -> None:
        """Takes a running sequence's row and pages away; it stays remembered."""
        slot = self._running.pop(serial)
        for key in self._keys[serial]:
            if self._promised.get(key) == serial:
                del self._promised[key]
        self.cache.release(self.pages.pages_of(slot))
        self.rows.vacate(slot)
        self._free_slots.append(slot)
