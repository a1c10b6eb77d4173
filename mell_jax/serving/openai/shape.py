"""The fields of a body that bind an answer to a shape become one grammar."""

from mell_jax.grammar import Grammar
from mell_jax.serving.constraint import FIELDS, grammar_of
from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest


def shape_of(request: CompletionRequest | ChatRequest) -> Grammar | None:
    """Returns the grammar that a request asks for, or None.

    Raises:
      InvalidRequestError: two fields ask for one, or a grammar cannot be used; names
        the field.
    """
    return grammar_of({name: getattr(request, name) for name in FIELDS})
