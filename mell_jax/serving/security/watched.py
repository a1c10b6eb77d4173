"""Watched files are read again, at most once a second, when they are needed."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, final

_logger = logging.getLogger(__name__)

_LOOK_S = 1.0

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


@final
class Watched(Generic[T]):
    """Keeps a value made of files; files that cannot be used leave it as it was."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        load: Callable[[], T],
        clock: Callable[[], float],
    ) -> None:
        """Loads the value.

        Args:
          paths: of all files.
          load: makes the value; raises OSError or ValueError when it cannot.
          clock: seconds, never backwards.

        Raises:
          ValueError: the files cannot be used.
          OSError: a file cannot be read.
        """
        self._paths = tuple(paths)
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()  # gRPC asks on threads of its own
        self._stamp = self._look()  # also of what could not be used
        self._value = load()
        self._looked_s = clock()
        self._trouble = ""

    def get(self) -> T:
        """Returns the value of the files as they are, or were when last of use."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._looked_s >= _LOOK_S:
                self._looked_s = now_s
                self._reload()
            return self._value

    def _reload(self) -> None:
        names = ", ".join(map(str, self._paths))
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._value = self._load()
            self._trouble = ""
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                _logger.error("kept what was read before of %s: %s", names, error)
            return
        _logger.warning("read %s anew", names)

    def _look(self) -> Stamp:
        found = (path.stat() for path in self._paths)
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)
