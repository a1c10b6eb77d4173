"""Placement policies by name, one file each."""

from collections.abc import Callable

from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.best_fit import BestFit
from mell_jax.scheduler.policies.consolidate import Consolidate

POLICIES: dict[str, Callable[[PolicyConfig], Policy]] = {
    "best_fit": BestFit,
    "consolidate": Consolidate,
}
