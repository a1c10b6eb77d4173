"""Events of a server: each is a line of its log and has a name that does not change.

`tell` is standard logging with a name and fields beside the words; how they are shown
is set up elsewhere (`serving/observe/logs.py`). No event has a prompt, a token, a
tenant or an id that a client chose; one has names of fields that nobody knows.
"""

import logging
from enum import Enum

LOGGER_NAME = "mell_jax.events"
PROGRESS_LOGGER_NAME = f"{LOGGER_NAME}.progress"
_logger = logging.getLogger(LOGGER_NAME)
_progress_logger = logging.getLogger(PROGRESS_LOGGER_NAME)

Value = str | int | float | None


class Event(Enum):
    """All events are listed; README.md of `serving/` says what each has to tell."""

    STARTING = "starting"
    PROGRESS = "progress"
    SAMPLING_DEFAULTS = "sampling_defaults"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    REQUEST_REFUSED = "request_refused"
    FIELDS_UNKNOWN = "fields_unknown"
    REQUEST_FAILED = "request_failed"
    ENGINE_FAILED = "engine_failed"
    FRONT_END_DIED = "front_end_died"
    FRONT_END_READY = "front_end_ready"
    DEVICE_FENCED = "device_fenced"
    INSTANCE_OPENED = "instance_opened"
    INSTANCE_PARKED = "instance_parked"
    MIGRATION_ABORTED = "migration_aborted"
    POLICY_CHANGED = "policy_changed"
    SHADOW_ENDED = "shadow_ended"
    WEIGHTS_CHANGED = "weights_changed"
    SERVING_CHANGED = "serving_changed"
    INVARIANT_BROKEN = "invariant_broken"
    CONTROLLER_BEGAN = "controller_began"
    CONTROLLER_ADOPTED = "controller_adopted"
    HOST_JOINED = "host_joined"
    HOST_REFUSED = "host_refused"
    LINK_REFUSED = "link_refused"
    HOST_ADMITTED = "host_admitted"
    HOST_LOST = "host_lost"
    HOST_FENCED = "host_fenced"
    HOST_LEFT = "host_left"
    FRONT_END_GONE = "front_end_gone"

    @property
    def level(self) -> int:
        """Returns the level for standard logging."""
        return _LEVELS.get(self, logging.INFO)


_LEVELS = {
    Event.SAMPLING_DEFAULTS: logging.WARNING,  # other text than without the file
    Event.DRAINING: logging.WARNING,
    Event.FAILED: logging.ERROR,
    Event.REQUEST_FAILED: logging.ERROR,
    Event.ENGINE_FAILED: logging.ERROR,
    Event.FRONT_END_DIED: logging.ERROR,
    Event.DEVICE_FENCED: logging.ERROR,
    Event.SHADOW_ENDED: logging.WARNING,
    Event.INVARIANT_BROKEN: logging.ERROR,
    Event.HOST_REFUSED: logging.ERROR,
    Event.LINK_REFUSED: logging.WARNING,
    Event.HOST_LOST: logging.ERROR,
    Event.HOST_FENCED: logging.ERROR,
    Event.FRONT_END_GONE: logging.WARNING,
}


def tell(
    event: Event,
    *,
    text: str,
    level: int | None = None,
    error: BaseException | None = None,
    **fields: Value,
) -> None:
    """Writes an event down.

    Args:
      event: its name.
      text: the same for people.
      level: a level of standard logging; by default the event's own.
      error: its cause, which is told with its traceback.
      fields: numbers and words of our own.
    """
    level = event.level if level is None else level
    logger = _logger_of(event)
    if logger.isEnabledFor(level):
        logger.log(
            level,
            "%s",
            text,
            exc_info=error,
            extra={"event": event.value, "fields": fields},
            stacklevel=2,
        )


def is_told(event: Event) -> bool:
    """Returns whether a log takes such an event at its own level."""
    return _logger_of(event).isEnabledFor(event.level)


def _logger_of(event: Event) -> logging.Logger:
    return _progress_logger if event is Event.PROGRESS else _logger
