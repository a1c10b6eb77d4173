"""A call of a trainer is a value: where it is made, how it is read, what it does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from mell_jax.engine.admin import Answer
from mell_jax.serving.admin.controls import Asked
from mell_jax.serving.admin.trainer.answers import Json
from mell_jax.serving.chat.fields import Fields

Ask = Callable[[Asked], Awaitable[Answer]]
POST, GET, EITHER = ("POST",), ("GET",), ("GET", "POST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call has several paths where several engines have it.

    Attributes:
      paths: where it is made.
      body: what it is read as.
      fields: that it knows.
      do: takes a body and what has the engine do something, and returns what to tell.
      methods: by which it is made.
    """

    paths: tuple[str, ...]
    body: type[msgspec.Struct]
    fields: Fields
    do: Callable[[Any, Ask], Awaitable[Json]]
    methods: tuple[str, ...] = POST
