"""The fields of a body that bind an answer to a shape become one grammar."""

import contextlib
from collections.abc import AsyncGenerator

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Delta
from mell_jax.grammar import Grammar
from mell_jax.serving.constraint import FIELDS, grammar_of, read_field
from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest


def shape_of(request: CompletionRequest | ChatRequest) -> Grammar | None:
    """Returns the grammar that a request asks for, or None.

    Raises:
      InvalidRequestError: two fields ask for one, or a grammar cannot be used; names
        the field.
    """
    return grammar_of({name: getattr(request, name) for name in FIELDS})


async def naming_shape(
    deltas: AsyncGenerator[Delta], *, asked: CompletionRequest | ChatRequest
) -> AsyncGenerator[Delta]:
    """Yields deltas of a request, whose grammar goes by its field's name.

    Raises:
      InvalidRequestError: the grammar cannot be compiled; names the field.
    """
    async with contextlib.aclosing(deltas) as stream:
        try:
            async for delta in stream:
                yield delta
        except InvalidRequestError as error:
            if error.field != "grammar":
                raise
            rule = str(error).removeprefix("grammar ")
            raise InvalidRequestError(_field_of(asked), rule) from error


def _field_of(asked: CompletionRequest | ChatRequest) -> str:
    """The field that binds the answer; others may be there and ask for nothing."""
    said = {name: getattr(asked, name) for name in FIELDS}
    given = (name for name in FIELDS if said[name] is not None)
    fields = (name for name in given if read_field(name, said[name]) is not None)
    return next(fields, "tools")  # which bind an answer, too
