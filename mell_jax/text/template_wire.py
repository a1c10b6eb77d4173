"""A template's process and its parent exchange these messages."""

import msgspec

from mell_jax.text.chat_template import Variables

MAX_MEMORY_BYTES = 512 * 1024 * 1024
"""Of the address space of a template's process."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A template to compile."""

    text: str
    special: dict[str, str]  # tokens by what the template calls them
    limit_s: float  # for compiling it, and for one rendering


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """The template is ready, or `error` says why it is none."""

    error: str = ""


class Render(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to render."""

    variables: Variables
    max_chars: int


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The text, or `error` says why there is none."""

    text: str = ""
    error: str = ""
