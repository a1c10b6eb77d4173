"""Counts compilations, and keeps compiled programs on disk between runs."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax._src import cache_key
from jax.experimental.compilation_cache import compilation_cache

from mell_jax.worker.cut_programs import remove_cut_programs

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_HASH_OPTIONS = "_hash_serialized_compile_options"


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
        with _equal_devices_share():
            yield
    finally:
        _update(before)


@contextlib.contextmanager
def _equal_devices_share() -> Iterator[None]:
    """Has the cache find a program for one device that was compiled for its equal.

    JAX reads what it finds for the device that it is asked for. On GPUs it leaves the
    device out of the key by itself, on CPUs it does not, so that eight of them would
    compile everything eight times. A JAX without this function compiles so.
    """
    hash_options = getattr(cache_key, _HASH_OPTIONS, None)
    if hash_options is None:
        logging.info("each device compiles for itself: JAX has no %s", _HASH_OPTIONS)
        yield
        return

    def hash_without_devices(*args: Any, **_: bool) -> None:
        hash_options(*args[:2], strip_device_assignment=True)

    setattr(cache_key, _HASH_OPTIONS, hash_without_devices)
    try:
        yield
    finally:
        setattr(cache_key, _HASH_OPTIONS, hash_options)


def keep_programs(
    directory: str, *, is_optional: bool, is_shared: bool
) -> contextlib.AbstractContextManager[None]:
    """Returns a block in which compiled programs are kept; "" keeps none after it.

    Args:
      directory: see `open_cache`.
      is_optional: goes on without a folder that cannot be used, and says so.
      is_shared: several groups of devices run what is compiled.

    Raises:
      UnusableCacheError: it cannot be used, and has to be.
    """
    if directory:
        try:
            folder = open_cache(directory)
        except UnusableCacheError as error:
            if not is_optional:
                raise
            logging.warning("nothing compiled is kept for the next start: %s", error)
        else:
            remove_cut_programs(folder)
            return use_compilation_cache(folder)
    if not is_shared:
        return contextlib.nullcontext()
    has_own = getattr(jax.config, "jax_compilation_cache_dir", None)  # the user's
    return _equal_devices_share() if has_own else _share_briefly()


@contextlib.contextmanager
def _share_briefly() -> Iterator[None]:
    """Keeps programs in a folder that is gone when the block ends."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mell-"))
        except OSError as error:
            logging.info("each device compiles for itself, without a folder: %s", error)
        else:
            stack.enter_context(use_compilation_cache(Path(folder)))
        yield


def _update(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or jax goes on with the folder that it has open
