"""Reservations are rows for sequences that come from another instance.

    source        hold -> (the step in flight lands) -> tokens_since, pages_of -> cancel
    destination   reserve -> receive or prefill, chunk by chunk -> begin

A reservation is a held row that computes nothing but what `prefill` gives it; nobody
finds its pages before it has begun. The batcher sees it as any other row, and ends it
by `cancel` as any other.
"""

from typing import final

from mell_jax.scheduler.grants import Grants
from mell_jax.scheduler.ids import Serial, Tokens
from mell_jax.scheduler.plan import Sequence
from mell_jax.scheduler.sequences import SequenceTable


@final
class Reservations:
    """Reservations take rows and pages of an instance's table before the batcher."""

    def __init__(self, sequences: SequenceTable, *, grants: Grants) -> None:
        self._sequences = sequences
        self._grants = grants
        self._rows = sequences.rows

    def reserve(self, sequence: Sequence, *, pages: int) -> int | None:
        """Takes a slot and `pages` of the pool for a sequence that is to come.

        Its known prefix is shared and pinned. Returns how many positions that are, or
        None without room, when nothing was taken.
        """
        table = self._sequences
        table.remember(sequence)
        matched = table.usable_prefix(sequence)
        most = table.spec.reach(pages, most=table.pages.max_pages)
        if not table.has_slot or not table.has_room(matched, pages=most):
            table.forget(sequence.serial)
            return None
        table.enter(sequence, matched=matched, pages=most)
        self._grants.hold(sequence.serial)
        return int(matched.shape[1]) * self._rows.page_tokens

    def extend(self, serial: Serial, *, positions: int, turns: bool = True) -> bool:
        """Takes the pages that a reservation lacks; returns whether there was room.

        Args:
          positions: of the sequence, for which there are to be pages.
          turns: lets rings go on to the last of them.
        """
        table, slot = self._sequences, self._sequences.slot_of(serial)
        pages = table.spec.pages(positions)
        needed = table.pages_needed(slot, pages=pages, turns=turns)
        if needed > table.cache.num_available:
            return False
        table.extend(slot, pages=pages, turns=turns)
        return True

    def prefill(self, serial: Serial, tokens: Tokens, *, first: int) -> None:
        """Has a reservation compute `tokens`, from position `first` on, sampling none.

        `SequenceTable.computed` says how far it is.
        """
        rows, slot = self._rows, self._sequences.slot_of(serial)
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
        rows, slot = self._rows, self._sequences.slot_of(serial)
        end = since + len(tail)
        rows.tokens[slot, since:end] = tail
        rows.known[slot] = rows.total[slot] = end
        rows.computed[slot] = computed
        self._grants.resume(serial)
        self._grants.grant(serial, pages=pages)
        return rows.known_tokens(slot)
