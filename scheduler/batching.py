"""The batcher decides what a step computes: decodes, then prefill, under a budget.

There are no phases. A sequence has `total - computed` tokens to do; one is a decode,
more is (part of) a prefill. Steps are planned one ahead of their results: `plan` may
run before the tokens of the step before it are known, `commit` brings them in. Rows and
prefill are shared out among tenants; with one tenant first come is first served.

A pure state machine: `add`, `cancel`, `plan`, `commit` are its events. The engine and
the property tests drive it alike; rows that come from elsewhere are `reservations`.
"""

from dataclasses import replace
from typing import final

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.composition import Composition, Part
from mell_jax.scheduler.fair_queue import FairQueue
from mell_jax.scheduler.grants import Grants, PageGrowth
from mell_jax.scheduler.ids import Pages, Serial, SlotId, Tokens
from mell_jax.scheduler.plan import Admitted, BatchLimits, Sequence, StepPlan
from mell_jax.scheduler.prefills import (
    find_missing,
    find_owed,
    give_out,
    give_out_in_parts,
)
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.scheduler.reservations import Reservations
from mell_jax.scheduler.rows import UNKNOWN_TOKEN, RowTable
from mell_jax.scheduler.sequences import SequenceTable

Int32Array = npt.NDArray[np.int32]
MAX_PASSED_OVER = 64
"""Waiting sequences looked at behind one that waits for a prefix being computed."""


@final
class Batcher:
    """The batcher chooses rows and chunks; it owns the queue of those that wait.

    Args:
      cache: the pages; new, of this instance alone.
      limits: sizes of a step.
      spec: which pages a sequence holds.
      shares_prefixes: whether pages of prompts become findable by others.
      growth: what becomes of a row that needs a page when there is none.

    Raises:
      ValueError: the pages cannot hold one sequence of the longest kind.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        limits: BatchLimits,
        spec: CacheSpec,
        shares_prefixes: bool = True,
        growth: PageGrowth = PageGrowth.WAIT,
    ) -> None:
        self.sequences = SequenceTable(
            cache,
            limits=limits,
            spec=spec,
            shares_prefixes=shares_prefixes,
        )
        self.grants = Grants(self.sequences)
        self.reservations = Reservations(self.sequences, grants=self.grants)
        self._limits = limits
        self._growth = growth
        self._composition = Composition(limits.mixed_tokens)
        self._waiting = FairQueue[Serial](
            quantum=spec.page_tokens, patience=limits.max_tokens
        )
        self._waiting_tokens = 0
        self._everyone = np.arange(limits.max_rows, dtype=np.int32)

    # -- events ------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind the others of its tenant."""
        assert 0 < len(sequence.tokens) < sequence.limit <= self._limits.max_tokens
        self.sequences.remember(sequence)
        self._waiting.push(
            sequence.serial, tenant=sequence.tenant, cost=len(sequence.tokens)
        )
        self._waiting_tokens += len(sequence.tokens)

    def cancel(self, serial: Serial, *, trusted: bool = True) -> None:
        """Forgets a sequence, waiting or running, and frees its pages at once.

        `trusted=False` also makes the pages unfindable, for content gone bad.
        """
        if not trusted:
            self.sequences.distrust(serial)
        if serial in self.sequences.running:
            self.sequences.leave(serial)
        else:
            self._waiting.discard(serial)
            self._waiting_tokens -= len(self.sequences.sequence(serial).tokens)
        self.sequences.forget(serial)
        self.grants.forget(serial)

    def plan(self) -> StepPlan | None:
        """Decides the next step and takes its pages; returns None without work."""
        preempted: list[Serial] = []
        decodes = self._plan_decodes(preempted)
        budget = self._limits.token_budget - len(decodes)
        admitted: list[Admitted] = []
        chunks: dict[int, int] = {}  # prefill tokens, by slot
        if self.sequences.is_shared:
            waiting = self._waiting if not preempted else None
            parts = give_out_in_parts(
                budget, sequences=self.sequences, waiting=waiting, chunks=chunks
            )
            if not preempted:
                self._admit_in_parts(parts, chunks, admitted)
            budget -= sum(chunks.values())
        missing = find_missing(self.sequences)
        budget = give_out(budget, missing=missing, chunks=chunks)
        if not preempted:
            self._admit(budget, chunks, admitted)
        if not preempted:
            decodes, chunks = self._compose(decodes, chunks)
        self._map_chunks(chunks)
        if not len(decodes) + len(chunks):
            assert not preempted, "a sequence was preempted for nobody"
            return None
        return self._emit(decodes, chunks, tuple(admitted), tuple(preempted))

    def commit(self, plan: StepPlan, tokens: Int32Array) -> npt.NDArray[np.bool_]:
        """Brings in the sampled `tokens` [b] of a planned step; -1 for none to trust.

        Returns which rows gave their sequence a token: [b]. Not those that did not
        sample, were cancelled since, or sampled nothing to trust; a sequence that was
        preempted since gets its token all the same. Pages are shared with others only
        once a token was sampled from them, so that bad content stays with its owner.
        """
        rows = self.rows
        sampled = plan.samples & (tokens >= 0)
        here = rows.serial[plan.slots] == plan.serials
        live: npt.NDArray[np.bool_] = here & sampled
        slots = plan.slots[live]
        rows.tokens[slots, rows.known[slots]] = tokens[live]
        rows.known[slots] += 1
        filled = plan.kv_lens // rows.page_tokens
        if self.sequences.shares_prefixes:
            for index in (live & (filled > rows.published[plan.slots])).nonzero()[0]:
                self.sequences.publish(
                    SlotId(int(plan.slots[index])), until=int(filled[index])
                )
        for index in (sampled & ~here).nonzero()[0]:
            live[index] = self._commit_preempted(
                Serial(int(plan.serials[index])), int(tokens[index])
            )
        return live

    def append(self, serial: Serial, tokens: Tokens) -> None:
        """Adds tokens to a sequence that were not sampled, and none is on its way.

        They are computed together, before the next one is sampled.
        """
        assert self.sequences.is_settled(serial), f"a token of {serial} is on its way"
        self.sequences.append(serial, tokens)
        if serial not in self.sequences.running:
            self._waiting_tokens += len(tokens)

    def turn(self, *, generation: int) -> None:
        """Has weights of another generation compute everything from now on.

        What has pages goes on with them, and shares none of them any more. What comes
        from elsewhere counts as if it had some: they are on their way.
        """
        mixed = {
            serial
            for serial in self.sequences.running
            if self.sequences.computed(serial) or self.grants.is_held(serial)
        }
        self.sequences.turn(generation=generation, mixed=mixed)

    def restart_all(self) -> int:
        """Computes all rows again, from the tokens they have; returns how many.

        None of them may be a reservation, or be held.
        """
        running = list(self.sequences.running)
        for serial in reversed(running):  # each comes before those that wait
            self._preempt(serial)
        return len(running)

    # -- questions ---------------------------------------------------------------

    @property
    def cache(self) -> PrefixCache:
        """Returns the cache that owns the pages."""
        return self.sequences.cache

    @property
    def rows(self) -> RowTable:
        """Returns the running batch; only the batcher and its parts change it."""
        return self.sequences.rows

    @property
    def lands_first(self) -> bool:
        """Returns whether the step in flight should end before the next is planned.

        So it is while tenants with less than their part come for first tokens, where
        running ahead gains little: the next one waits for one step less.
        """
        return self._limits.lands_for_owed and self._composition.is_urgent

    @property
    def num_running(self) -> int:
        """Returns the number of rows, reservations included."""
        return len(self.sequences.running)

    @property
    def num_waiting(self) -> int:
        """Returns the number of sequences without a row."""
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        """Returns the tokens of all waiting sequences."""
        return self._waiting_tokens

    @property
    def is_empty(self) -> bool:
        """Returns whether no sequence waits or runs."""
        return self.sequences.is_empty

    def knows(self, serial: Serial) -> bool:
        """Returns whether a sequence waits or runs."""
        return self.sequences.knows(serial)

    # -- planning ----------------------------------------------------------------

    def _plan_decodes(self, preempted: list[Serial]) -> Int32Array:
        while True:
            rows = self.rows
            ready = rows.active & (rows.total < rows.limit)
            ready &= rows.total - rows.computed == 1
            ready &= rows.computed < rows.ceiling
            slots = ready.nonzero()[0].astype(np.int32)
            mapped = rows.pages.mapped
            short = slots[rows.computed[slots] >= mapped[slots] * rows.page_tokens]
            if not len(short):
                return slots
            fitting = self._count_fitting(short, mapped=mapped)
            if fitting == len(short):
                break
            if self._growth is PageGrowth.WAIT:
                slots = slots[np.isin(slots, short[fitting:], invert=True)]
                short = short[:fitting]
                break
            preempted.append(self._preempt(self._choose_victim()))
        for slot in short:
            self.sequences.extend(slot, pages=int(mapped[slot]) + 1)
        return slots

    def _count_fitting(self, short: Int32Array, *, mapped: Pages) -> int:
        """Returns how many of the rows that need a page, in order, can have it."""
        left = self.cache.num_available
        for index, slot in enumerate(short):
            left -= self.sequences.pages_needed(slot, pages=int(mapped[slot]) + 1)
            if left < 0:
                return index
        return len(short)

    def _map_chunks(self, chunks: dict[int, int]) -> None:
        """Maps pages of what rows prefill; one that lacks them waits.

        A row entered with all its pages, but rings turn, and tokens may be appended.
        """
        rows = self.rows
        for slot, tokens in list(chunks.items()):
            pages = self.sequences.spec.pages(int(rows.computed[slot]) + tokens)
            at = SlotId(slot)
            if self.sequences.pages_needed(at, pages=pages) > self.cache.num_available:
                del chunks[slot]
            else:
                self.sequences.extend(at, pages=pages)

    def _compose(
        self, decodes: Int32Array, chunks: dict[int, int]
    ) -> tuple[Int32Array, dict[int, int]]:
        """Leaves out what is to wait for the next step; see `Composition`."""
        if not self._limits.mixed_tokens:
            return decodes, chunks  # everything computes together
        may_be_owed = self.sequences.is_shared and len(decodes)
        owed = find_owed(self.sequences, chunks) if may_be_owed else {}
        part = self._composition.choose(
            decodes=len(decodes),
            prefill=sum(chunks.values()),
            urgent=sum(owed.values()),
            prompts=len(chunks),
        )
        if part is Part.DECODES:
            return decodes, {}
        if part is Part.ALL:
            return decodes, chunks
        return decodes[:0], owed if part is Part.URGENT else chunks

    def _admit(
        self, budget: int, chunks: dict[int, int], admitted: list[Admitted]
    ) -> None:
        """Gives rows to those that wait; with several tenants, in turns."""
        is_shared = self.sequences.is_shared
        for tenant in self._waiting.turns():
            budget = self._admit_from(
                tenant, budget, chunks, admitted, is_one_enough=is_shared
            )
            if not is_shared:
                break

    def _admit_in_parts(
        self, parts: dict[str, int], chunks: dict[int, int], admitted: list[Admitted]
    ) -> None:
        """Gives rows in turns to those that wait, to each tenant within its part."""
        for tenant in self._waiting.turns():
            parts[tenant] = self._admit_from(
                tenant, parts.get(tenant, 0), chunks, admitted, is_one_enough=True
            )

    def _admit_from(
        self,
        tenant: str,
        budget: int,
        chunks: dict[int, int],
        admitted: list[Admitted],
        *,
        is_one_enough: bool,
    ) -> int:
        """Gives rows to those of a tenant that wait; returns what is left of `budget`.

        Args:
          is_one_enough: whether it is another tenant's turn after one row.
        """
        entries: list[Admitted] = []
        passed_over = 0
        for serial in self._waiting.items(tenant):
            sequence = self.sequences.sequence(serial)
            is_gated = self.grants.is_gated(serial, tokens=len(sequence.tokens))
            if is_gated or self.grants.is_held(serial):
                continue
            if sequence.pending or not self.sequences.has_slot or budget == 0:
                break  # a pending token is on its way; nobody overtakes its sequence
            matched = self.sequences.usable_prefix(sequence)
            if self.sequences.awaits_prefix(sequence, matched=matched):
                passed_over += 1
                if passed_over == MAX_PASSED_OVER:
                    break
                continue
            entry = self._enter(sequence, matched)
            if entry is None:
                self._waiting.refuse(tenant)
                break
            entries.append(entry)
            chunk = min(len(sequence.tokens) - entry.cached, budget)
            chunk = min(chunk, self.sequences.spec.chunk_tokens or chunk)
            budget -= chunk
            chunks[entry.slot] = chunk
            if is_one_enough:
                break
        for entry in entries:
            self._waiting.take(entry.serial)
            self._waiting_tokens -= len(entry.tokens)
        admitted += entries
        return budget

    def _enter(self, sequence: Sequence, matched: Pages) -> Admitted | None:
        """Gives a sequence a slot and pages for all its tokens; None without room."""
        shared, spec = matched.shape[1], self.sequences.spec
        pages = spec.pages(len(sequence.tokens))
        # A page for each running sequence stays, or it would be preempted at once.
        does_preempt = self._growth is PageGrowth.PREEMPT
        spare = self.num_running * spec.num_groups if does_preempt else 0
        if not self.sequences.has_room(matched, pages=pages, spare=spare):
            return None
        slot = self.sequences.enter(sequence, matched=matched, pages=pages)
        self.sequences.promise(sequence.serial, first_page=shared)
        self.grants.apply(sequence.serial)
        return Admitted(
            serial=sequence.serial,
            slot=slot,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            cached=shared * spec.page_tokens,
        )

    def _emit(
        self,
        decodes: Int32Array,
        chunks: dict[int, int],
        admitted: tuple[Admitted, ...],
        preempted: tuple[Serial, ...],
    ) -> StepPlan:
        rows = self.rows
        slots = decodes
        if chunks:
            slots = np.concatenate([decodes, np.array(list(chunks), np.int32)])
        q_lens = np.ones(len(slots), np.int32)
        starts = rows.computed[slots]
        owners, positions = self._everyone[: len(slots)], starts
        if chunks:
            q_lens[len(decodes) :] = list(chunks.values())
            owners = owners.repeat(q_lens)  # [t]
            before = q_lens.cumsum() - q_lens  # tokens of the rows before
            positions = np.arange(len(owners)) + (starts - before)[owners]
        ends = starts + q_lens
        source = slots[owners]
        token_ids = np.where(
            positions < rows.known[source],
            rows.tokens[source, positions],
            UNKNOWN_TOKEN,
        )
        samples = ends == rows.total[slots]
        rows.computed[slots] = ends
        rows.total[slots] += samples
        return StepPlan(
            slots=slots,
            serials=rows.serial[slots],
            starts=starts,
            q_lens=q_lens,
            kv_lens=ends,
            samples=samples,
            token_ids=token_ids.astype(np.int32, copy=False),
            positions=positions.astype(np.int32, copy=False),
            owners=owners,
            page_table=rows.pages.table[:, slots],
            admitted=admitted,
            preempted=preempted,
        )

    # -- leaving -----------------------------------------------------------------

    def _choose_victim(self) -> Serial:
        """Returns the newest; before it the newest whose last token is on its way.

        That one has nothing left to compute, so it loses nothing. Were it spared, a
        sequence could be preempted although nobody else has a use for the step.
        """
        rows = self.rows
        for serial, slot in reversed(self.sequences.running.items()):
            if rows.total[slot] == rows.limit[slot]:
                return serial
        return next(reversed(self.sequences.running))

    def _preempt(self, serial: Serial) -> Serial:
        slot = self.sequences.slot_of(serial)
        tokens = self.rows.known_tokens(slot)
        pending = int(self.rows.total[slot]) - len(tokens)
        self.sequences.leave(serial)
        known = self.sequences.sequence(serial)
        sequence = replace(known, tokens=tokens, pending=pending, is_mixed=False)
        self.sequences.remember(sequence)
        self._waiting.put_back(serial, tenant=sequence.tenant)
        self._waiting_tokens += len(tokens)
        return serial

    def _commit_preempted(self, serial: Serial, token: int) -> bool:
        """Adds a token that was on its way when its sequence lost its slot."""
        if not self.sequences.knows(serial):
            return False  # cancelled since
        sequence = self.sequences.sequence(serial)
        self.sequences.remember(replace(sequence, pending=sequence.pending - 1))
        self.sequences.append(serial, np.array([token], np.int32))
        self._waiting_tokens += 1
        return True
