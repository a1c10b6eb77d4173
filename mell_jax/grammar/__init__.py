"""Grammars say which texts may be generated; guides follow them token by token.

    Grammar  --(GrammarCheck)-->  can it be used?            in a process of its own
    Grammar  --(GuideMaker)-->  Guide  --advance(token)-->  Guidance: mask, forced, end

llguidance (MIT) does the grammars; nothing here knows of models, rows or requests.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mell_jax.grammar.check import GrammarCheck
    from mell_jax.grammar.grammar import Grammar, GrammarError
    from mell_jax.grammar.guidance import Guidance
    from mell_jax.grammar.guide import Guide, GuideMaker
    from mell_jax.grammar.token_table import TokenTable

_HOME = {  # loaded when they are needed: the process that checks needs few of them
    "Grammar": "grammar",
    "GrammarCheck": "check",
    "GrammarError": "grammar",
    "Guidance": "guidance",
    "Guide": "guide",
    "GuideMaker": "guide",
    "TokenTable": "token_table",
}

__all__ = [
    "Grammar",
    "GrammarCheck",
    "GrammarError",
    "Guidance",
    "Guide",
    "GuideMaker",
    "TokenTable",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mell_jax.grammar' has no attribute {name!r}")
    return getattr(import_module(f"mell_jax.grammar.{_HOME[name]}"), name)
