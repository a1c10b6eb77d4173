"""Grammars say which texts may be generated; guides follow them token by token.

    Grammar  --(GuideMaker)-->  Guide  --advance(token)-->  Guidance: mask, forced, end

llguidance (MIT) does the grammars; nothing here knows of models, rows or requests.
"""

from mell_jax.grammar.grammar import Grammar, GrammarError
from mell_jax.grammar.guide import Guidance, Guide, GuideMaker
from mell_jax.grammar.token_table import TokenTable

__all__ = [
    "Grammar",
    "GrammarError",
    "Guidance",
    "Guide",
    "GuideMaker",
    "TokenTable",
]
