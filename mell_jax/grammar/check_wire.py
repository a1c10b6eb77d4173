"""A grammar's check and its process exchange these messages."""

import msgspec

MAX_MEMORY_BYTES = 256 * 1024 * 1024
"""Of the address space of a process that checks grammars."""


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """The first message."""

    limit_s: float  # for one grammar


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar to compile, as `Grammar.source` has it."""

    source: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The grammar can be used, or `error` says why not."""

    error: str = ""
