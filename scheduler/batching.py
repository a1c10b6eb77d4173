"""What the next step computes: decodes first, then prefill chunks, under a budget.

There are no phases. A sequence has `total - computed` tokens to do; one is a decode,
more is (part of) a prefill. When pages run out the newest sequence is preempted: it
gives up its pages, keeps its tokens, and waits at the head of the queue to be computed
again. Steps are planned one ahead of their results: `plan` may run before the tokens of
the step before it are known, `commit` brings them in.

A pure state machine: `add`, `cancel`, `plan`, `commit` are its events. The engine, the
simulator and the property tests drive it alike.
"""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.ids import PageId, PageKey, Pages, Serial, SlotId
from mell_jax.scheduler.plan import Admitted, BatchLimits, Sequence, StepPlan
from mell_jax.scheduler.prefix_cache import (
    PrefixCache,
    next_key,
    page_keys,
    root_key,
)
from mell_jax.scheduler.rows import UNKNOWN_TOKEN, RowTable

Int32Array = npt.NDArray[np.int32]
MAX_PASSED_OVER = 64
"""Waiting sequences looked at behind one that waits for a prefix being computed."""


class Batcher:
    """Chooses rows and chunks; owns the row table, the queue and the pages."""

    def __init__(
        self,
        cache: PrefixCache,
        *,
        limits: BatchLimits,
        page_tokens: int,
        shares_prefixes: bool = True,
        preempts: bool = True,
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
        self._limits = limits
        self._shares_prefixes = shares_prefixes
        self._preempts = preempts  # False: who has no page waits for one
        self._held: set[Serial] = set()
        self._waiting: OrderedDict[Serial, None] = OrderedDict()  # next one first
        self._waiting_tokens = 0
        self._running: dict[Serial, SlotId] = {}  # oldest admission first
        self._sequences: dict[Serial, Sequence] = {}  # waiting and running
        self._keys: dict[Serial, list[PageKey]] = {}  # of their full pages, so far
        self._promised: dict[PageKey, Serial] = {}  # page contents being computed
        self._free_slots = list(range(limits.max_rows - 1, -1, -1))

    # -- events ------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind the others."""
        assert 0 < len(sequence.tokens) < sequence.limit <= self._limits.max_tokens
        self._remember(sequence)
        self._enqueue(sequence)

    def cancel(self, serial: Serial, *, trusted: bool = True) -> None:
        """Forgets a sequence, waiting or running, and frees its pages at once.

        `trusted=False` also makes the pages unfindable, for content gone bad.
        """
        self._held.discard(serial)
        slot = self._running.pop(serial, None)
        if slot is None:
            self._dequeue(serial)
            if not trusted:  # it may have left pages behind when it was preempted
                self.cache.forget(self.cache.match(self._keys[serial]))
        else:
            if not trusted:
                self.cache.forget(self.rows.pages_of(slot))
            self._leave(slot, serial)
        del self._keys[serial], self._sequences[serial]

    def plan(self) -> StepPlan | None:
        """Decides the next step and takes its pages; None when there is none to do."""
        preempted: list[Serial] = []
        decodes = self._plan_decodes(preempted)
        budget = self._limits.token_budget - len(decodes)
        admitted: list[Admitted] = []
        prefills, chunks = self._plan_prefills(budget)
        budget -= sum(chunks)
        if not preempted:
            new_slots, new_chunks = self._admit(budget, admitted)
            prefills += new_slots
            chunks += new_chunks
        slots = np.concatenate([decodes, np.array(prefills, np.int32)])
        if not len(slots):
            assert not preempted, "a sequence was preempted for nobody"
            return None
        q_lens = np.ones(len(slots), np.int32)
        q_lens[len(decodes) :] = chunks
        return self._emit(slots, q_lens, tuple(admitted), tuple(preempted))

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
        if self._shares_prefixes:
            for index in np.flatnonzero(live & (filled > rows.published[plan.slots])):
                self._publish(SlotId(int(plan.slots[index])), until=int(filled[index]))
        for index in np.flatnonzero(sampled & ~here):
            live[index] = self._commit_preempted(
                Serial(int(plan.serials[index])), int(tokens[index])
            )
        return live

    # -- questions ---------------------------------------------------------------

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        """Tokens of all waiting sequences."""
        return self._waiting_tokens

    @property
    def is_empty(self) -> bool:
        return not self._sequences

    def num_pages(self, serial: Serial) -> int:
        """Pages of a sequence; 0 while it waits for a row."""
        slot = self._running.get(serial)
        return 0 if slot is None else len(self.rows.pages_of(slot))

    def knows(self, serial: Serial) -> bool:
        return serial in self._sequences

    # -- planning ----------------------------------------------------------------

    def _plan_decodes(self, preempted: list[Serial]) -> Int32Array:
        while True:
            rows = self.rows
            ready = rows.active & (rows.total < rows.limit)
            ready &= rows.total - rows.computed == 1
            ready &= rows.computed < rows.ceiling
            slots = np.flatnonzero(ready).astype(np.int32)
            full = rows.computed[slots] >= rows.num_pages[slots] * rows.page_tokens
            short = slots[full]
            lack = len(short) - self.cache.num_available
            if lack <= 0:
                break
            if not self._preempts:
                slots = slots[np.isin(slots, short[-lack:], invert=True)]
                short = short[:-lack]
                break
            preempted.append(self._preempt(self._choose_victim()))
        pages = self.cache.allocate(len(short))
        rows.page_table[short, rows.num_pages[short]] = pages
        rows.num_pages[short] += 1
        return slots

    def _plan_prefills(self, budget: int) -> tuple[list[int], list[int]]:
        rows = self.rows
        missing = np.minimum(rows.total, rows.ceiling) - rows.computed
        is_prefill = (rows.total - rows.computed > 1) & (missing > 0)
        wanting = set(np.flatnonzero(rows.active & is_prefill).tolist())
        slots: list[int] = []
        chunks: list[int] = []
        for slot in self._running.values() if wanting else ():
            if slot in wanting and budget > 0:
                chunk = min(int(missing[slot]), budget)
                slots.append(slot)
                chunks.append(chunk)
                budget -= chunk
        return slots, chunks

    def _admit(
        self, budget: int, admitted: list[Admitted]
    ) -> tuple[list[int], list[int]]:
        slots: list[int] = []
        chunks: list[int] = []
        passed_over = 0
        for serial in self._waiting:
            if serial in self._held:
                continue
            sequence = self._sequences[serial]
            if sequence.pending or not self._free_slots or budget == 0:
                break  # a pending token is on its way; nobody overtakes its sequence
            matched = self._usable_prefix(sequence)
            if self._awaits_prefix(sequence, matched):
                passed_over += 1
                if passed_over == MAX_PASSED_OVER:
                    break
                continue
            entry = self._enter(sequence, matched)
            if entry is None:
                break
            admitted.append(entry)
            chunk = min(len(sequence.tokens) - entry.cached, budget)
            budget -= chunk
            slots.append(entry.slot)
            chunks.append(chunk)
        for entry in admitted:
            self._dequeue(entry.serial)
        return slots, chunks

    def _usable_prefix(self, sequence: Sequence) -> Pages:
        if not sequence.reads_cache:
            return np.zeros(0, np.int32)
        # The last token is always computed: its logits are what the step is for.
        most = (len(sequence.tokens) - 1) // self.rows.page_tokens
        return self.cache.match(self._keys[sequence.serial][:most])

    def _awaits_prefix(self, sequence: Sequence, matched: Pages) -> bool:
        if not sequence.reads_cache:
            return False
        most = (len(sequence.tokens) - 1) // self.rows.page_tokens
        wanted = self._keys[sequence.serial][len(matched) : most]
        return bool(wanted) and wanted[0] in self._promised

    def _enter(self, sequence: Sequence, matched: Pages) -> Admitted | None:
        """Gives a sequence a slot and pages for all its tokens; None without room."""
        size = self.rows.page_tokens
        needed = -(-len(sequence.tokens) // size) - len(matched)
        room = self.cache.num_available - self.cache.count_idle(matched)
        if self._preempts:
            # A page for each running sequence stays, or it would be preempted at once.
            room -= len(self._running)
        if needed > room:
            return None
        self.cache.acquire(matched)
        pages = np.concatenate([matched, self.cache.allocate(needed)])
        slot = SlotId(self._free_slots.pop())
        cached = len(matched) * size
        self.rows.occupy(
            slot,
            serial=sequence.serial,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            limit=sequence.limit,
            pages=pages,
            computed=cached,
        )
        self._running[sequence.serial] = slot
        for key in self._keys[sequence.serial][len(matched) :]:
            self._promised.setdefault(key, sequence.serial)
        return Admitted(
            serial=sequence.serial,
            slot=slot,
            tokens=sequence.tokens,
            prompt=sequence.prompt,
            cached=cached,
        )

    def _emit(
        self,
        slots: Int32Array,
        q_lens: Int32Array,
        admitted: tuple[Admitted, ...],
        preempted: tuple[Serial, ...],
    ) -> StepPlan:
        rows = self.rows
        starts = rows.computed[slots]
        ends = starts + q_lens
        owners = np.repeat(np.arange(len(slots), dtype=np.int32), q_lens)  # [t]
        before = np.cumsum(q_lens) - q_lens  # tokens of the rows before
        positions = np.arange(len(owners)) + (starts - before)[owners]
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
            samples=samples,
            token_ids=token_ids.astype(np.int32),
            positions=positions.astype(np.int32),
            owners=owners,
            page_table=rows.page_table[slots],
            admitted=admitted,
            preempted=preempted,
        )

    # -- leaving -----------------------------------------------------------------

    def _choose_victim(self) -> Serial:
        """The newest; before it the newest whose last token is already on its way.

        That one has nothing left to compute, so it loses nothing. Were it spared, a
        sequence could be preempted although nobody else has a use for the step.
        """
        rows = self.rows
        for serial, slot in reversed(self._running.items()):
            if rows.total[slot] == rows.limit[slot]:
                return serial
        return next(reversed(self._running))

    def _preempt(self, serial: Serial) -> Serial:
        slot = self._running.pop(serial)
        tokens = self.rows.known_tokens(slot)
        pending = int(self.rows.total[slot]) - len(tokens)
        self._leave(slot, serial)
        sequence = replace(self._sequences[serial], tokens=tokens, pending=pending)
        self._remember(sequence)
        self._enqueue(sequence)
        self._waiting.move_to_end(serial, last=False)
        return serial

    def _commit_preempted(self, serial: Serial, token: int) -> bool:
        """Adds a token that was on its way when its sequence lost its slot."""
        sequence = self._sequences.get(serial)
        if sequence is None:
            return False  # cancelled since
        tokens = np.append(sequence.tokens, np.int32(token))
        self._remember(replace(sequence, tokens=tokens, pending=sequence.pending - 1))
        self._waiting_tokens += 1
        return True

    def _enqueue(self, sequence: Sequence) -> None:
        self._waiting[sequence.serial] = None
        self._waiting_tokens += len(sequence.tokens)

    def _dequeue(self, serial: Serial) -> None:
        del self._waiting[serial]
        self._waiting_tokens -= len(self._sequences[serial].tokens)

    def _leave(self, slot: SlotId, serial: Serial) -> None:
        for key in self._keys[serial]:
            if self._promised.get(key) == serial:
                del self._promised[key]
        self.cache.release(self.rows.pages_of(slot))
        self.rows.vacate(slot)
        self._free_slots.append(slot)

    # -- page contents -----------------------------------------------------------

    def _remember(self, sequence: Sequence) -> None:
        self._sequences[sequence.serial] = sequence
        self._keys[sequence.serial] = (
            page_keys(
                sequence.tokens,
                page_tokens=self.rows.page_tokens,
                salt=sequence.salt,
            )
            if self._shares_prefixes
            else []
        )

    def _publish(self, slot: SlotId, *, until: int) -> None:
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
