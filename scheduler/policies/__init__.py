"""Placement policies by name, one file each."""

from collections.abc import Callable

from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.best_fit import BestFit
from mell_jax.scheduler.policies.consolidate import Consolidate
from mell_jax.scheduler.policies.llumnix_consolidation import (
    build_llumnix_consolidation,
)
from mell_jax.scheduler.policies.load_balance import build_load_balance
from mell_jax.scheduler.policies.mell import Mell
from mell_jax.scheduler.policies.pinned import (
    build_pinned_best_fit,
    build_pinned_spread,
)
from mell_jax.scheduler.policies.reserve_peak import ReservePeak
from mell_jax.scheduler.policies.spread import Spread
from mell_jax.scheduler.policies.worst_fit import WorstFit

POLICIES: dict[str, Callable[[PolicyConfig], Policy]] = {
    "mell": Mell,
    "best_fit": BestFit,
    "consolidate": Consolidate,
    "llumnix_consolidation": build_llumnix_consolidation,
    "load_balance": build_load_balance,
    "pinned_best_fit": build_pinned_best_fit,
    "pinned_spread": build_pinned_spread,
    "reserve_peak": ReservePeak,
    "spread": Spread,
    "worst_fit": WorstFit,
}

NEVER_MOVE = ("pinned_best_fit", "pinned_spread", "reserve_peak")
"""Policies under which a request stays where it was placed."""
