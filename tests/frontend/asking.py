"""Requests of the program itself, which may do everything."""

from collections.abc import AsyncGenerator
from typing import Any

from mell_jax.frontend import Ask, Caller, Delta, FrontEnd, generate


def generate_for_us(front_end: FrontEnd, **asked: Any) -> AsyncGenerator[Delta]:
    """`generate` for the library's own caller; the rest is as `Ask` has it."""
    return generate(front_end, Ask(caller=Caller.of_library(), **asked))
