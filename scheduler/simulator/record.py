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
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator.settings import Settings

EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Arrive,
        events.Grow,
        events.Finish,
        events.Relocate,
        events.Tick,
        events.DeviceAdded,
        events.DeviceRemoved,
        events.DeviceLost,
        events.MoveCommitted,
        events.MoveAborted,
    )
}


class ReplayError(ValueError):
    """Raised when a log does not reproduce."""


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


def make_header(
    policy: str, *, config: PolicyConfig, settings: Settings
) -> dict[str, Any]:
    """All that is needed to make the machine of a run again."""
    return {
        "policy": policy,
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
    }


def read_machine(lines: Iterator[str]) -> Machine:
    """A machine as the header of a log, its first line, describes it.

    Raises:
      ValueError: it is no log, or of a policy that is not known.
    """
    try:
        header = json.loads(next(lines, ""))["header"]
        fields = header["settings"]
        step_time = StepTime(**fields.pop("step_time"))
        settings = Settings(**fields, step_time=step_time)
        policy = POLICIES[header["policy"]](PolicyConfig(**header["config"]))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            "not an event log as --record writes it: the first line is no header "
            f"({type(error).__name__})"
        ) from None
    return Machine(models=settings.models(), policy=policy)


def replay(machine: Machine, *, lines: Iterable[str]) -> int:
    """Drives `machine` with recorded events; returns how many there were.

    Raises:
      ReplayError: a plan differs, with the event and both plans, or a line is damaged.
    """
    count = 0
    for count, line in enumerate(lines, start=1):
        try:
            recorded = json.loads(line)
            event = decode_event(recorded["event"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ReplayError(
                f"event {count} is not readable, the log may be cut off ({error})"
            ) from None
        answer = machine.step(event)
        decisions = json.loads(json.dumps([encode(d) for d in answer.decisions]))
        if decisions != recorded["plan"]:
            raise ReplayError(
                f"event {count}, {recorded['event']}: recorded {recorded['plan']}, "
                f"now {decisions}"
            )
    return count
