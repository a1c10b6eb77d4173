"""Callers feel three times: to a first token, between tokens, and to the last one.

    arrival -------- TTFT --------> first token - TPOT - TPOT - TPOT -> last token
            ------------------------- E2E ------------------------------>

Waiting, for a place as for a device that loads, is part of the first token's time. TPOT
is the mean of a request's own, pauses and gaps of moves included; a request of one
token has none. All are of every request that was served, over the whole run.
"""

import math
from array import array
from dataclasses import dataclass, field

import numpy as np

LEVELS = (50, 90, 99)
ROUNDING = 1e-9  # of sums of times: what takes exactly as long as allowed is in time


@dataclass(slots=True, kw_only=True)
class Latencies:
    """Latencies are noted as requests end, and held against two objectives."""

    slo_ttft_s: float = math.inf
    slo_tpot_s: float = math.inf
    ttft_s: "array[float]" = field(default_factory=lambda: array("d"))
    tpot_s: "array[float]" = field(default_factory=lambda: array("d"))
    e2e_s: "array[float]" = field(default_factory=lambda: array("d"))
    _met: int = 0

    def ended(
        self, *, arrived_s: float, first_s: float, ended_s: float, tokens: int
    ) -> None:
        """A request has its last of `tokens` tokens."""
        ttft_s, tpot_s = first_s - arrived_s, 0.0
        self.ttft_s.append(ttft_s)
        self.e2e_s.append(ended_s - arrived_s)
        if tokens > 1:
            tpot_s = (ended_s - first_s) / (tokens - 1)
            self.tpot_s.append(tpot_s)
        is_soon = ttft_s <= self.slo_ttft_s * (1 + ROUNDING)
        self._met += is_soon and tpot_s <= self.slo_tpot_s * (1 + ROUNDING)

    def figures(self) -> dict[str, float]:
        """Percentiles in seconds, and the share of requests that met both objectives.

        Nothing was served: zeros, and all of it met what was asked for.
        """
        figures = {}
        for name in ("ttft", "tpot", "e2e"):
            values = np.asarray(getattr(self, f"{name}_s"))
            for level in LEVELS:
                value = float(np.percentile(values, level)) if len(values) else 0.0
                figures[f"{name}_p{level}_s"] = value
        served = len(self.e2e_s)
        return figures | {"slo_attainment": self._met / served if served else 1.0}
