"""Serves the rollouts of Tunix, Google's trainer for language models in JAX.

    from mell_jax.integrations.tunix import MellRollout
    ClusterConfig(rollout_engine=MellRollout, ...)

Tunix is imported when `MellRollout` is asked for: it is a `Rollout` that Tunix takes
for one of its own engines.
"""

from functools import cache
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "MellRollout":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _rollout_class()


@cache
def _rollout_class() -> type[Any]:
    base = import_module("tunix.rl.rollout.base_rollout")
    ours = import_module("mell_jax.integrations.tunix.rollout").Rollout
    body = {
        "__doc__": ours.__doc__,
        "__module__": __name__,
        "make_output": staticmethod(base.RolloutOutput),
    }
    made: type[Any] = type(base.BaseRollout)(
        "MellRollout", (ours, base.BaseRollout), body
    )
    return made
