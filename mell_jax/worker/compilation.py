"""Counts compilations, and keeps compiled programs on disk between runs."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

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


class UnusableCacheError(OSError):
    """The folder that is to keep compiled programs cannot be used."""


def open_cache(directory: str) -> Path:
    """Returns the folder of compiled programs, which nobody else may write to.

    jax loads native code from there, so the folder is made private to its owner.

    Args:
      directory: its path; "~" at the beginning is the user's home.

    Raises:
      UnusableCacheError: it cannot be made or written to, or is somebody else's.
    """
    try:
        path = Path(directory).expanduser()  # RuntimeError: a user without a home
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to another user and would be run from")
        path.chmod(0o700)
        if not os.access(path, os.W_OK | os.X_OK):  # also on read-only file systems
            raise PermissionError("it cannot be written to")
    except (OSError, RuntimeError) as error:
        raise UnusableCacheError(
            f"compilation_cache_dir {directory!r} cannot be used: {error}; name a "
            "folder of your own, or none with an empty text (compilation_cache_dir='')"
        ) from error
    return path


@contextlib.contextmanager
def use_compilation_cache(directory: Path) -> Iterator[None]:
    """Keeps compiled programs in `directory` until the block ends.

    The settings are those of the whole process: afterwards they are what they were, so
    that the user's own programs are compiled as before.
    """
    wanted = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        _update(wanted)
        yield
    finally:
        _update(before)


def keep_programs(
    directory: str, *, is_optional: bool
) -> contextlib.AbstractContextManager[None]:
    """Returns a block in which compiled programs are kept; "" keeps none.

    Args:
      directory: see `open_cache`.
      is_optional: goes on without a folder that cannot be used, and says so.

    Raises:
      UnusableCacheError: it cannot be used, and has to be.
    """
    if not directory:
        return contextlib.nullcontext()
    try:
        return use_compilation_cache(open_cache(directory))
    except UnusableCacheError as error:
        if not is_optional:
            raise
        logging.warning("nothing compiled is kept for the next start: %s", error)
        return contextlib.nullcontext()


def _update(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or jax goes on with the folder that it has open
