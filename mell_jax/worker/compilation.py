"""Counts compilations, and keeps compiled programs on disk between runs."""

import os
from pathlib import Path

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompilationCounter:
    """Counts how often XLA was asked to compile since this counter was made.

    A program loaded from the compilation cache counts too: what matters after
    readiness is that no step has to wait for one.
    """

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: str | int) -> None:
        del duration_secs
        if event == _COMPILE_EVENT:
            self.count += 1


def use_compilation_cache(directory: Path) -> None:
    """Keeps compiled programs in `directory`, which nobody else may write to.

    jax loads native code from there, so the folder is made private to its owner.

    Raises:
      PermissionError: when the folder belongs to somebody else.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(
            f"{directory} belongs to another user and holds programs that would be "
            "run; choose another --compilation_cache_dir"
        )
    directory.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
