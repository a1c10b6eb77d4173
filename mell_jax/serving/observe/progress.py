"""Readiness needs progress: an engine that gets nowhere is not ready.

The engine's thread counts the rounds that got somewhere (`EngineThread.rounds`), and a
ping makes it do one when it has no work. Looks are counted, not seconds: a machine that
was asleep raises no alarm.
"""

import logging
import threading
from typing import Protocol, final

from mell_jax.frontend import EngineLink

LOOK_S = 0.5
_STOP_S = 10.0

_logger = logging.getLogger(__name__)


class LocalEngine(EngineLink, Protocol):
    """A local engine runs in this process and tells whether it makes progress."""

    @property
    def rounds(self) -> int:
        """Grows while the engine makes progress."""

    def ping(self) -> None:
        """Makes an idle engine run one round; thread-safe, never blocks."""


@final
class ProgressWatch:
    """Looks at an engine every `LOOK_S`; it is ready at first."""

    def __init__(self, engine: LocalEngine, *, stall_s: float) -> None:
        self._engine = engine
        self._most_still = round(stall_s / LOOK_S)
        self._rounds = -1
        self._still = 0  # looks in a row that saw no progress

    def look(self) -> bool:
        """Returns True if the engine makes progress, or may yet.

        It is given until the next look to go round.
        """
        rounds = self._engine.rounds
        if rounds == self._rounds:
            self._still += 1
        else:
            self._rounds, self._still = rounds, 0
            self._engine.ping()
        return self._still < self._most_still


def stop_engine(engine: EngineLink, *, wait_s: float = _STOP_S) -> None:
    """Stops an engine, but does not wait for ever for a step that hangs."""
    thread = threading.Thread(target=engine.stop, name="mell-stop", daemon=True)
    thread.start()
    thread.join(wait_s)
    if thread.is_alive():
        _logger.error("the engine's step does not end; left it after %g s", wait_s)
