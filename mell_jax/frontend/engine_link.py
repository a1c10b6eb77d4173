"""A link is the engine as its front ends see it, in this process or another one."""

from collections.abc import Callable
from typing import Protocol

from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    StepFrame,
    Submit,
)

Sink = Callable[[StepFrame | EngineStopped], None]


class EngineLink(Protocol):
    """A front end needs this much of an engine."""

    @property
    def infos(self) -> tuple[EngineInfo, ...]: ...

    @property
    def is_alive(self) -> bool: ...

    def start(self, sink: Sink) -> None:
        """Begins to run; `sink` is called on the engine's thread, once per step."""

    def send(self, message: Submit | Abort) -> None:
        """Takes a message from any thread and never blocks."""

    def load(self) -> EngineLoad: ...

    def stop(self) -> None:
        """Ends the engine and waits for it; the last frame is `EngineStopped`."""
