"""Pauses, puts to sleep and wakes an engine, from whatever thread asks."""

from typing import final

from mell_jax.engine.admin import (
    AskServing,
    Keeps,
    Pause,
    PauseMode,
    PrefixCacheReset,
    ResetPrefixCache,
    Resume,
    ServingState,
    Sleep,
    SleepLevel,
    Wake,
)
from mell_jax.engine.ask import ask
from mell_jax.engine.thread import EngineThread


@final
class Serving:
    """It has an engine serve, or not."""

    def __init__(self, engine: EngineThread) -> None:
        self._engine = engine

    @property
    def state(self) -> ServingState:
        """Returns whether it serves, and with what."""
        return ask(self._engine, AskServing(), ServingState)

    def pause(self, mode: PauseMode) -> None:
        """Does what `LLM.pause` says."""
        ask(self._engine, Pause(mode=mode), ServingState)

    def resume(self) -> None:
        """Does what `LLM.resume` says."""
        ask(self._engine, Resume(), ServingState)

    def sleep(self, level: SleepLevel, *, keeps: Keeps, mode: PauseMode) -> int:
        """Does what `LLM.sleep` says."""
        command = Sleep(level=level, keeps=keeps, mode=mode)
        return ask(self._engine, command, ServingState).freed_bytes

    def wake(self) -> None:
        """Does what `LLM.wake` says."""
        ask(self._engine, Wake(), ServingState)

    def reset_prefix_cache(self) -> int:
        """Does what `LLM.reset_prefix_cache` says."""
        return ask(self._engine, ResetPrefixCache(), PrefixCacheReset).pages
