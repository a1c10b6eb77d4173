"""A budget bounds what consolidation uses of links and prefill in one epoch.

Moves that copy use bytes of the source's outgoing and the target's incoming link, moves
that recompute use prefill tokens of the target; a move needs only one of the two.
Urgent moves (overflow) do not ask: they are few, and the alternative is to stop a
request.
"""

import math
from collections import defaultdict

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import PolicyConfig


class Budget:
    """Bytes per link end and prefill tokens per instance, renewed every epoch."""

    def __init__(self, config: PolicyConfig) -> None:
        self._link_bytes = config.link_bytes_per_s * config.epoch_s
        self._prefill_tokens = config.prefill_tokens_per_s * config.epoch_s
        self._out: dict[DeviceGroupId, float] = defaultdict(float)
        self._in: dict[DeviceGroupId, float] = defaultdict(float)
        self._prefill: dict[DeviceGroupId, float] = defaultdict(float)

    def renew(self) -> None:
        self._out.clear()
        self._in.clear()
        self._prefill.clear()

    def take(self, draft: Draft) -> bool:
        """Takes what the moves of the draft need; tells whether that much was left."""
        if self._link_bytes == math.inf:
            return True
        ledger = draft.ledger
        used = self._out.copy(), self._in.copy(), self._prefill.copy()
        for request, source, target in draft.moves():
            spec = ledger.spec(request.model)
            amount = request.pages * spec.page_bytes
            tokens = request.pages * spec.page_tokens
            links = max(self._out[source], self._in[target])
            if links + amount <= self._link_bytes:
                self._out[source] += amount
                self._in[target] += amount
            elif self._prefill[target] + tokens <= self._prefill_tokens:
                self._prefill[target] += tokens
            else:
                self._out, self._in, self._prefill = used
                return False
        return True
