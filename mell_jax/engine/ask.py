"""Whoever commands the engine from another thread waits for its answer here."""

from typing import TypeVar

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.thread import EngineThread

A = TypeVar("A", bound=Answer)


def ask(engine: EngineThread, command: Command, kind: type[A]) -> A:
    """Returns the engine's answer to a command, once it has it.

    An interrupt here takes the command back if the engine has not begun.

    Raises:
      RuntimeError: the engine has stopped, or cannot do it as things are.
    """
    answer = engine.ask(command)
    try:
        found = answer.result()
    except BaseException:
        answer.cancel()
        raise
    assert isinstance(found, kind), f"{command} was answered by {found}"
    return found
