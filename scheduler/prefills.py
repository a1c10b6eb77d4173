"""Prefills are given the tokens of a step: oldest row first, in parts of the tenants.

    budget 60    a wants 100   b wants 10   c wants 100     ->   a 25   b 10   c 25

A tenant's long prompts so hold up its own requests alone. Pure functions of what the
batcher knows; `chunks` are the tokens of a step, by slot.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mell_jax.scheduler.fair_queue import FairQueue
from mell_jax.scheduler.ids import Serial, SlotId
from mell_jax.scheduler.plan import Sequence
from mell_jax.scheduler.sequences import SequenceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A tenant can use so many tokens."""

    tokens: int
    weight: float


def divide(budget: int, *, wants: Mapping[str, Want]) -> dict[str, int]:
    """Returns the tokens of each tenant: its part of `budget`, or all that it wants.

    What a tenant leaves is divided among the others. Less than a token for each tenant
    may remain, by rounding.
    """
    parts = dict.fromkeys(wants, 0)
    open_ = dict(wants)
    left = budget
    while open_:
        per_weight = left / sum(want.weight for want in open_.values())
        content = {
            name: want.tokens
            for name, want in open_.items()
            if want.tokens <= want.weight * per_weight
        }
        if not content:
            for name, want in open_.items():
                parts[name] = int(want.weight * per_weight)
            break
        for name, tokens in content.items():
            parts[name] = tokens
            left -= tokens
            del open_[name]
    return parts


def find_missing(sequences: SequenceTable) -> dict[SlotId, int]:
    """Returns the tokens that rows have yet to prefill, oldest admission first."""
    rows = sequences.rows
    is_prefill = rows.total - rows.computed > 1
    if not is_prefill.any():
        return {}  # as in most steps
    missing = np.minimum(rows.total, rows.ceiling) - rows.computed
    if sequences.spec.chunk_tokens is not None:
        missing = np.minimum(missing, sequences.spec.chunk_tokens)
    is_prefill &= missing > 0
    wanting = set(np.flatnonzero(rows.active & is_prefill).tolist())
    if not wanting:
        return {}
    return {
        slot: int(missing[slot])
        for slot in sequences.running.values()
        if slot in wanting
    }


def find_owed(sequences: SequenceTable, chunks: Mapping[int, int]) -> dict[int, int]:
    """Returns those of `chunks` that end prompts of tenants with less than their part.

    A tenant's part of the rows is by its weight among the tenants that have rows.
    """
    rows = sequences.rows
    ending = {
        slot: sequences.sequence(Serial(int(rows.serial[slot]))).tenant
        for slot, tokens in chunks.items()
        if rows.computed[slot] + tokens == rows.total[slot]
    }
    if not ending:
        return {}
    tenants = [sequences.sequence(serial).tenant for serial in sequences.running]
    held = Counter(tenant.name for tenant in tenants)
    weights = {tenant.name: tenant.weight for tenant in tenants}
    per_weight = len(tenants) / sum(weights.values())
    return {
        slot: chunks[slot]
        for slot, tenant in ending.items()
        if held[tenant.name] < tenant.weight * per_weight
    }


def give_out(budget: int, *, missing: dict[SlotId, int], chunks: dict[int, int]) -> int:
    """Adds tokens of rows that prefill to `chunks`; returns what is left."""
    for slot, tokens in missing.items():
        chunk = min(tokens - chunks.get(slot, 0), budget)
        if chunk > 0:
            chunks[slot] = chunks.get(slot, 0) + chunk
            budget -= chunk
    return budget


def give_out_in_parts(
    budget: int,
    *,
    sequences: SequenceTable,
    waiting: FairQueue[Serial] | None,
    chunks: dict[int, int],
) -> dict[str, int]:
    """Adds tokens of rows, of each tenant within its part; returns what is left.

    Args:
      waiting: those that could have a row; None when nobody gets one in this step.

    Returns:
      The tokens that the waiting ones of each tenant may compute.
    """
    wants: dict[str, Want] = {}
    missing: dict[str, dict[SlotId, int]] = {}
    for slot, tokens in find_missing(sequences).items():
        sequence = sequences.sequence(Serial(int(sequences.rows.serial[slot])))
        missing.setdefault(sequence.tenant.name, {})[slot] = tokens
        _want(wants, sequence, tokens)
    if waiting is not None and sequences.has_slot:
        for name in waiting.tenants:
            for serial in waiting.items(name):
                sequence = sequences.sequence(serial)
                if _want(wants, sequence, len(sequence.tokens)) >= budget:
                    break
    parts = divide(budget, wants=wants)
    for name, rows in missing.items():
        parts[name] = give_out(parts[name], missing=rows, chunks=chunks)
    return parts


def _want(wants: dict[str, Want], sequence: Sequence, tokens: int) -> int:
    """Adds tokens to what a tenant can use; returns how many it is now."""
    tenant = sequence.tenant
    if tenant.name in wants:
        tokens += wants[tenant.name].tokens
    wants[tenant.name] = Want(tokens=tokens, weight=tenant.weight)
    return tokens
