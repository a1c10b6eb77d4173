"""Watches a fleet that is stepped by hand: what each step did, and how long it took.

    launch k | land k - 1 | launch k + 1 | land k      step k took from land to land

So a step's time is the device's where it waits for the device, and the host's where it
waits for the host: what requests feel. The first step after a rest does not count.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.instance import InFlight, Instance
from mell_jax.scheduler.plan import StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """A step was seen; pages are counted along sequences."""

    rows: int  # that decoded
    pages: int  # of these, in all
    prefill_tokens: int
    prefill_pairs: int  # prefilled tokens, times those of their sequence up to them
    took_s: float


@final
class StepWatch:
    """A watch keeps the samples of all instances of a fleet.

    Args:
      page_tokens: tokens of a page.
    """

    def __init__(self, *, page_tokens: int) -> None:
        self.samples: list[StepSample] = []
        self._page_tokens = page_tokens
        self._open: dict[Instance, deque[tuple[InFlight, float]]] = {}
        self._landed_s: dict[Instance, float] = {}

    def look(self, fleet: Fleet, *, now_s: float) -> None:
        """Sees what has begun and ended; after each step of the fleet."""
        for member in fleet.instances.values():
            instance = member.inner
            steps = self._open.setdefault(instance, deque())
            while steps and _is_landed(steps[0][0], instance):
                step, launched_s = steps.popleft()
                since_s = self._landed_s.get(instance, -math.inf)
                self._landed_s[instance] = now_s
                if launched_s <= since_s < now_s:  # equal: two landed between looks
                    self._note(step.plan, took_s=now_s - since_s)
            newest = instance.in_flight
            if newest is not None and (not steps or steps[-1][0] is not newest):
                steps.append((newest, now_s))

    def _note(self, plan: StepPlan, *, took_s: float) -> None:
        decodes = plan.q_lens == 1
        starts = plan.starts[~decodes].astype(np.int64)
        tokens = plan.q_lens[~decodes].astype(np.int64)
        pairs = tokens * starts + tokens * (tokens + 1) // 2
        self.samples.append(
            StepSample(
                rows=int(decodes.sum()),
                pages=int((-(-plan.kv_lens[decodes] // self._page_tokens)).sum()),
                prefill_tokens=int(tokens.sum()),
                prefill_pairs=int(pairs.sum()),
                took_s=took_s,
            )
        )


def _is_landed(step: InFlight, instance: Instance) -> bool:
    return step is not instance.in_flight and step.pending is not instance.landing
