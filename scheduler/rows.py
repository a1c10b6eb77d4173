"""The row table holds the running batch as arrays: one slot per sequence.

A sequence has `total` tokens, of which `known` are on the host (the rest are sampled
but not yet fetched) and `computed` are in the KV cache or on their way there:

    tokens  [t0 t1 t2 ... t7 t8 ?]     known = 9, total = 10
    KV       ^^^^^^^^^^^^^^^^^^        computed = 9: the next step computes the `?`

Its owner, the batcher, changes it; everybody else reads.
"""

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import Serial, SlotId, Tokens
from mell_jax.scheduler.page_map import PageMap

NO_SERIAL = Serial(-1)
UNKNOWN_TOKEN = -1
NO_CEILING = 2**31 - 1


class RowTable:
    """The table holds `num_slots` sequences of at most `max_tokens` tokens."""

    def __init__(self, *, num_slots: int, max_tokens: int, cache: CacheSpec) -> None:
        self.num_slots = num_slots
        self.max_tokens = max_tokens
        self.page_tokens = cache.page_tokens
        self.pages = PageMap(
            cache, num_slots=num_slots, max_pages=cache.pages(max_tokens)
        )
        self.serial = np.full(num_slots, NO_SERIAL, np.int64)
        self.prompt = np.zeros(num_slots, np.int32)  # tokens of the original prompt
        self.known = np.zeros(num_slots, np.int32)
        self.total = np.zeros(num_slots, np.int32)
        self.computed = np.zeros(num_slots, np.int32)
        self.limit = np.zeros(num_slots, np.int32)  # total may grow up to here
        self.ceiling = np.full(num_slots, NO_CEILING, np.int32)  # of computed
        self.published = np.zeros(num_slots, np.int32)  # pages others may share
        self.tokens = np.zeros((num_slots, max_tokens), np.int32)

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """Returns which slots hold a sequence."""
        return np.not_equal(self.serial, NO_SERIAL)

    def occupy(
        self,
        slot: SlotId,
        *,
        serial: Serial,
        tokens: Tokens,
        prompt: int,
        limit: int,
        computed: int,
    ) -> None:
        """Fills a free slot; its pages hold `computed` of `tokens` already."""
        assert self.serial[slot] == NO_SERIAL, f"slot {slot} is taken"
        self.serial[slot] = serial
        self.prompt[slot] = prompt
        self.known[slot] = self.total[slot] = len(tokens)
        self.computed[slot] = computed
        self.limit[slot] = limit
        self.ceiling[slot] = NO_CEILING
        self.published[slot] = computed // self.page_tokens
        self.tokens[slot, : len(tokens)] = tokens

    def append(self, slot: SlotId, tokens: Tokens) -> None:
        """Adds tokens to a slot of which none is on its way."""
        known, end = int(self.known[slot]), int(self.known[slot]) + len(tokens)
        self.tokens[slot, known:end] = tokens
        self.known[slot] = self.total[slot] = end

    def vacate(self, slot: SlotId) -> None:
        self.serial[slot] = NO_SERIAL
        self.ceiling[slot] = NO_CEILING
        self.pages.clear(slot)

    def known_tokens(self, slot: SlotId) -> Tokens:
        """Returns a copy of a slot's tokens that the host knows."""
        return self.tokens[slot, : self.known[slot]].copy()
