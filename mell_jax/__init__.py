"""A JAX engine for large language models that moves requests between devices.

Names are loaded when they are first used, so that `import mell_jax.scheduler` needs no
jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mell_jax.engine.fleet.config import FleetConfig
    from mell_jax.engine.params import InvalidRequestError, SamplingParams
    from mell_jax.grammar import Grammar, GrammarError
    from mell_jax.library.outputs import Completion, RequestOutput
    from mell_jax.llm import LLM
    from mell_jax.models.servable import ServableModel

__version__ = "0.2.0"

_HOME = {
    "LLM": "mell_jax.llm",
    "FleetConfig": "mell_jax.engine.fleet.config",
    "Completion": "mell_jax.library.outputs",
    "RequestOutput": "mell_jax.library.outputs",
    "SamplingParams": "mell_jax.engine.params",
    "ServableModel": "mell_jax.models.servable",
    "Grammar": "mell_jax.grammar",
    "GrammarError": "mell_jax.grammar",
    "InvalidRequestError": "mell_jax.engine.params",
}

__all__ = [
    "LLM",
    "Completion",
    "FleetConfig",
    "Grammar",
    "GrammarError",
    "InvalidRequestError",
    "RequestOutput",
    "SamplingParams",
    "ServableModel",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mell_jax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
