"""The threads behind an `LLM` end when it is closed, forgotten, or its program ends."""

import atexit
from typing import final

from mell_jax.engine.thread import EngineThread
from mell_jax.frontend import FrontEnd
from mell_jax.loop_thread import LoopThread

EXIT_S = 10.0
"""At most so long a program's end waits for the step in flight."""


@final
class End:
    """The end of all threads, the loop's late: the engine's has a last word for it.

    It must come before Python is taken apart, even when nobody closes the `LLM`: a
    thread that comes back from the runtime after that aborts the process.
    """

    def __init__(
        self, engine: EngineThread, loop: LoopThread, *, front_end: FrontEnd
    ) -> None:
        self._engine, self._loop, self._front_end = engine, loop, front_end

    def __call__(self) -> None:
        atexit.unregister(self.at_exit)
        self._end(most_s=None)

    def at_exit(self) -> None:
        """Does not wait for ever for a step that hangs."""
        self._end(most_s=EXIT_S)

    def _end(self, *, most_s: float | None) -> None:
        self._engine.stop(most_s=most_s)
        self._loop.close(most_s=most_s)
        self._front_end.close()
