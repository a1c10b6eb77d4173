"""Log lines are text for people, or JSON for machines.

Every process of a server writes to standard error. In JSON each line is one object,
events of INFO are shown, and refusals, which a client can make many of, are thinned.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, final

from absl import flags
from absl import logging as absl_logging
from absl.logging import converter

from mell_jax.console import say
from mell_jax.events import LOGGER_NAME, PROGRESS_LOGGER_NAME, Event, tell

LogFormat = Literal["text", "json"]
_MOST_REFUSALS = 10  # lines a second


@final
class Place:
    """A process of a fleet of hosts names itself by this in each of its lines.

    Attributes:
      name: as in "host left" or "controller".
      epoch: under which it is in the fleet; None while it is not.
    """

    __slots__ = ("epoch", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch: int | None = None

    def __str__(self) -> str:
        return self.name if self.epoch is None else f"{self.name}, epoch {self.epoch}"


def set_up_logging(
    log_format: LogFormat, *, verbosity: int, process: str, place: Place | None = None
) -> None:
    """Decides what this process writes; once, at its start.

    Args:
      log_format: "text" leaves everything as absl does it, but for a place.
      verbosity: in absl's numbers.
      process: named in every line of JSON that has no place.
      place: of the process in a fleet of hosts; named in every line.
    """
    absl_logging.set_verbosity(verbosity)
    logging.getLogger(PROGRESS_LOGGER_NAME).setLevel(logging.INFO)  # in minutes, few
    if log_format == "text":
        if place is not None:
            flags.FLAGS.mark_as_parsed()  # absl's log has flags there, by default
            absl_logging.use_absl_handler()
            absl_logging.get_absl_handler().setFormatter(PlacedLines(place))
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process, place=place))
    for event in (Event.REQUEST_REFUSED, Event.FIELDS_UNKNOWN):
        thinned = Thinned(_MOST_REFUSALS, clock=time.monotonic, event=event)
        handler.addFilter(thinned)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(converter.absl_to_standard(verbosity))
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)


def complain(cause: str, *, log_format: LogFormat) -> None:
    """Says why the program ends although nobody asked for it."""
    if log_format == "json":
        tell(Event.FAILED, text=cause)
    else:
        say(f"mell-serve: {cause}", to_error=True)


@final
class PlacedLines(absl_logging.PythonFormatter):
    """Writes a record as absl does, with a place before its message."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def format(self, record: logging.LogRecord) -> str:
        head, end, message = super().format(record).partition("] ")
        return f"{head}{end}[{self._place}] {message}"


@final
class JsonLines(logging.Formatter):
    """Writes a record as one line: an object whose names do not change."""

    def __init__(self, process: str, *, place: Place | None = None) -> None:
        super().__init__()
        self._process = process
        self._place = place

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            **self._own(),
            "message": record.getMessage(),
            "source": f"{record.filename}:{record.lineno}",
        }
        if left_out := getattr(record, "left_out", 0):
            line["left_out"] = left_out
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        fields: dict[str, object] = getattr(record, "fields", {})
        return json.dumps({**fields, **line}, default=str)

    def _own(self) -> dict[str, object]:
        """Returns whose line it is."""
        if self._place is None:
            return {"process": self._process}
        if self._place.epoch is None:
            return {"process": self._place.name}
        return {"process": self._place.name, "epoch": self._place.epoch}


@final
class Thinned(logging.Filter):
    """Lets so many of an event a second through; the next one counts those left out.

    A handler calls it on any thread; a count that is off by one does no harm.
    """

    def __init__(
        self,
        most: int,
        *,
        clock: Callable[[], float],
        event: Event = Event.REQUEST_REFUSED,
    ) -> None:
        super().__init__()
        self._event = event
        self._most = most
        self._clock = clock
        self._second = -1
        self._seen = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "event", "") != self._event.value:
            return True
        second = int(self._clock())
        if second != self._second:
            self._second, self._seen = second, 0
        self._seen += 1
        if self._seen > self._most:
            self._left_out += 1
            return False
        record.left_out, self._left_out = self._left_out, 0
        return True
