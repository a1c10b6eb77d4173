"""The event log of a run: every event and its plan, one JSON line each.

    {"header": {...}}
    {"event": ["Arrive", {...}], "plan": [["Place", {...}], ...]}

A log that is replayed drives a fresh machine with the recorded events and compares
every plan, so it proves that decisions depend on nothing else.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, TextIO

from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.events import Cached
from mell_jax.scheduler.placement.machine import Machine

EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Arrive,
        events.Grow,
        events.Finish,
        events.Tick,
        events.DeviceAdded,
        events.DeviceRemoved,
        events.DeviceLost,
        events.MoveCommitted,
        events.MoveAborted,
    )
}


class ReplayError(ValueError):
    """Raised when a plan differs from the recorded one."""


class Recorder:
    """A machine that writes down what it is told and what it answers."""

    def __init__(
        self, machine: Machine, *, file: TextIO, header: dict[str, Any]
    ) -> None:
        self._machine = machine
        self._file = file
        file.write(json.dumps({"header": header}) + "\n")

    def step(self, event: events.Event) -> plan.Plan:
        answer = self._machine.step(event)
        line = {"event": encode(event), "plan": [encode(d) for d in answer.decisions]}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return answer


def encode(value: Any) -> list[Any]:
    """An event or a decision as its name and fields; defaults are left out."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if content == field.default:
            continue
        if isinstance(content, Enum):
            content = content.name
        if isinstance(content, tuple):
            content = [dataclasses.asdict(item) for item in content]
        fields[field.name] = content
    return [type(value).__name__, fields]


def decode_event(encoded: list[Any]) -> events.Event:
    """Undoes `encode`.

    Raises:
      ValueError: the name is none of an event.
    """
    name, fields = encoded
    if name not in EVENTS:
        raise ValueError(f"no event is called {name!r}; there are {sorted(EVENTS)}")
    if "prefix" in fields:
        fields["prefix"] = tuple(Cached(**item) for item in fields["prefix"])
    event: events.Event = EVENTS[name](**fields)
    return event


def read_header(lines: Iterator[str]) -> dict[str, Any]:
    """The first line of a log.

    Raises:
      ValueError: it is no log.
    """
    first = json.loads(next(lines, "{}"))
    if "header" not in first:
        raise ValueError("not an event log: the first line has no header")
    header: dict[str, Any] = first["header"]
    return header


def replay(machine: Machine, *, lines: Iterable[str]) -> int:
    """Drives `machine` with recorded events; returns how many there were.

    Raises:
      ReplayError: a plan differs, with the event and both plans.
    """
    count = 0
    for count, line in enumerate(lines, start=1):
        recorded = json.loads(line)
        answer = machine.step(decode_event(recorded["event"]))
        decisions = json.loads(json.dumps([encode(d) for d in answer.decisions]))
        if decisions != recorded["plan"]:
            raise ReplayError(
                f"event {count}, {recorded['event']}: recorded {recorded['plan']}, "
                f"now {decisions}"
            )
    return count
