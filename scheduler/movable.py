"""A batcher whose sequences come and go between instances while they decode.

    source        hold -> (the step in flight lands) -> tokens_since, pages_of -> cancel
    destination   reserve -> receive or prefill, chunk by chunk -> begin

Pages are granted from outside: a row computes up to what it was granted and then waits,
it is never preempted here. A reservation is a row that computes nothing; nobody finds
its pages before it has begun.
"""

import numpy as np

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.ids import PageKey, Pages, Serial, SlotId, Tokens
from mell_jax.scheduler.plan import Admitted, BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.scheduler.rows import NO_CEILING

AHEAD_TOKENS = 3
"""So many tokens before its last page is full a row asks for the next one: time for a
move that makes the room, while it still decodes."""


class MovableBatcher(Batcher):
    """See the module's docstring; for a fleet of instances under one placement."""

    def __init__(
        self,
        cache: PrefixCache,
        *,
        limits: BatchLimits,
        page_tokens: int,
        shares_prefixes: bool = True,
    ) -> None:
        super().__init__(
            cache,
            limits=limits,
            page_tokens=page_tokens,
            shares_prefixes=shares_prefixes,
            preempts=False,
        )
        self._granted: dict[Serial, int] = {}  # positions

    # -- pages that are granted ----------------------------------------------------

    def grant(self, serial: Serial, *, pages: int) -> None:
        """Lets a sequence have `pages` in all; a held one has them when it resumes."""
        self._granted[serial] = pages * self.rows.page_tokens
        if serial not in self._held:
            self._set_ceiling(serial, self._granted[serial])

    def wanting(self) -> list[tuple[Serial, int]]:
        """Rows near the end of what they were granted, and pages they have."""
        rows = self.rows
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
                found.append((serial, granted // rows.page_tokens))
        return found

    def cancel(self, serial: Serial, *, trusted: bool = True) -> None:
        self._granted.pop(serial, None)
        super().cancel(serial, trusted=trusted)

    def _enter(self, sequence: Sequence, matched: Pages) -> Admitted | None:
        entry = super()._enter(sequence, matched)
        granted = self._granted.get(sequence.serial)
        if entry is not None and granted is not None:
            self._set_ceiling(sequence.serial, granted)
        return entry

    # -- leaving -------------------------------------------------------------------

    def hold(self, serial: Serial) -> None:
        """Takes a sequence out of the batch, in its place; `resume` undoes it."""
        self._held.add(serial)
        slot = self._running.get(serial)
        if slot is not None:
            self.rows.ceiling[slot] = self.rows.computed[slot]

    def resume(self, serial: Serial) -> None:
        self._held.discard(serial)
        self._set_ceiling(serial, self._granted.get(serial, NO_CEILING))

    def is_settled(self, serial: Serial) -> bool:
        """Whether no token of the sequence is on its way."""
        slot = self._running.get(serial)
        if slot is None:
            return self._sequences[serial].pending == 0
        return bool(self.rows.known[slot] == self.rows.total[slot])

    def computed(self, serial: Serial) -> int:
        """Positions in the sequence's pages, those of the step in flight included."""
        slot = self._running.get(serial)
        return 0 if slot is None else int(self.rows.computed[slot])

    def tokens_since(self, serial: Serial, position: int) -> Tokens:
        """The tokens that the host knows from `position` on; a copy."""
        slot = self._running.get(serial)
        if slot is None:
            return self._sequences[serial].tokens[position:].copy()
        return self.rows.known_tokens(slot)[position:]

    def slot_of(self, serial: Serial) -> SlotId:
        return self._running[serial]

    def pages_of(self, serial: Serial) -> Pages:
        """The pages of a running sequence in prompt order; a copy."""
        return self.rows.pages_of(self._running[serial])

    def count_cached(self, keys: list[PageKey]) -> int:
        """How many of a prompt's pages, named by their keys, are here already."""
        return len(self.cache.match(keys))

    # -- coming --------------------------------------------------------------------

    def reserve(self, sequence: Sequence, *, pages: int) -> int | None:
        """Takes a slot and `pages` for a sequence that is to come.

        Its known prefix is shared and pinned. Returns how many positions that are, or
        None without room, when nothing was taken.
        """
        self._remember(sequence)
        matched = self._usable_prefix(sequence)
        needed = max(pages, len(matched)) - len(matched)
        room = self.cache.num_available - self.cache.count_idle(matched)
        if not self._free_slots or needed > room:
            del self._sequences[sequence.serial], self._keys[sequence.serial]
            return None
        self.cache.acquire(matched)
        slot = SlotId(self._free_slots.pop())
        cached = len(matched) * self.rows.page_tokens
        self.rows.occupy(
            slot,
            serial=sequence.serial,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            limit=sequence.limit,
            pages=np.concatenate([matched, self.cache.allocate(needed)]),
            computed=cached,
        )
        self.rows.ceiling[slot] = cached
        self._running[sequence.serial] = slot
        self._held.add(sequence.serial)
        return cached

    def extend(self, serial: Serial, *, positions: int) -> bool:
        """Takes the pages that a reservation lacks; whether there was room."""
        rows, slot = self.rows, self._running[serial]
        have = int(rows.num_pages[slot])
        more = -(-positions // rows.page_tokens) - have
        if more > self.cache.num_available:
            return False
        if more > 0:
            rows.page_table[slot, have : have + more] = self.cache.allocate(more)
            rows.num_pages[slot] += more
        return True

    def prefill(self, serial: Serial, tokens: Tokens, *, first: int) -> None:
        """Has a reservation compute `tokens`, from position `first` on, sampling none.

        `computed` says how far it is.
        """
        rows, slot = self.rows, self._running[serial]
        end = first + len(tokens)
        rows.tokens[slot, first:end] = tokens
        rows.known[slot] = max(int(rows.known[slot]), end)
        rows.total[slot] = rows.known[slot] + 1  # the next token is not to be sampled
        rows.ceiling[slot] = end

    def begin(
        self, serial: Serial, *, computed: int, since: int, tail: Tokens, pages: int
    ) -> Tokens:
        """Runs a reservation whose pages hold `computed` positions.

        Args:
          since: position of the first of `tail`, the tokens that came after the
            reservation was made.
          pages: what it is granted.

        Returns:
          All tokens of the sequence.
        """
        rows, slot = self.rows, self._running[serial]
        end = since + len(tail)
        rows.tokens[slot, since:end] = tail
        rows.known[slot] = rows.total[slot] = end
        rows.computed[slot] = computed
        self._held.discard(serial)
        self.grant(serial, pages=pages)
        return rows.known_tokens(slot)

    def _set_ceiling(self, serial: Serial, positions: int) -> None:
        slot = self._running.get(serial)
        if slot is not None:
            self.rows.ceiling[slot] = positions
