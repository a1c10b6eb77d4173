"""The event log of a run: every event and its plan, one JSON line each, with times.

    {"header": {..., "requests": [[arrival_s, input, output, model], ...]}}
    {"t": 1.5, "event": ["Arrive", {...}], "plan": [["Place", {...}], ...]}
    {"t": 1.5, "begun": [{"move": 0, "mode": "KV", "tokens": 90, "ends_s": 1.52}]}
    {"figures": {...}}

A log that is replayed drives a fresh machine with the recorded events and compares
every plan, so it proves that decisions depend on nothing else. `check` recomputes the
figures. Moves that take no time begin and end where they are decided, without a line.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, TextIO

from mell_jax.scheduler.cache_spec import CacheSpec, PageGroup
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.events import Cached
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator.carriage import Begun
from mell_jax.scheduler.simulator.devices import Devices
from mell_jax.scheduler.simulator.profile import StepSpeed
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload

EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Arrive,
        events.Grow,
        events.Finish,
        events.Relocate,
        events.Tick,
        events.Wake,
        events.DeviceAdded,
        events.DeviceRemoved,
        events.DeviceLost,
        events.Activated,
        events.MoveCommitted,
        events.MoveAborted,
    )
}


class ReplayError(ValueError):
    """Raised when a log does not reproduce."""


class EventLog:
    """Writes down what a machine is told, what it answers, and what becomes of it."""

    def __init__(self, file: TextIO, *, header: dict[str, Any]) -> None:
        self._file = file
        self._write({"header": header})

    def decided(self, event: events.Event, answer: plan.Plan, *, now_s: float) -> None:
        decisions = [encode(decision) for decision in answer.decisions]
        self._write({"t": now_s, "event": encode(event), "plan": decisions})

    def began(
        self, begun: Sequence[Begun], *, now_s: float, late: int, over: int
    ) -> None:
        """Some moves have begun; `late` were put off, `over` overdrew a limit."""
        moves = [encode(move)[1] for move in begun]
        self._write({"t": now_s, "begun": moves, "late": late, "over": over})

    def ended(self, figures: Mapping[str, float]) -> None:
        """The run is over; these are its figures."""
        self._write({"figures": dict(figures)})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


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
    policy: str, *, config: PolicyConfig, settings: Settings, workload: Workload
) -> dict[str, Any]:
    """All that is needed to make the machine of a run again, and its requests."""
    columns = (
        workload.arrival_s.tolist(),
        workload.input_tokens.tolist(),
        workload.output_tokens.tolist(),
        workload.models,
    )
    return {
        "policy": policy,
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "shares_prefixes": workload.blocks is not None,
        "requests": list(zip(*columns, strict=True)),
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
        cache = _read_cache(fields.pop("cache"))
        steps = fields.pop("steps", None)  # older logs have none
        devices = tuple(Devices(**own) for own in fields.pop("devices", ()))
        settings = Settings(
            **fields,
            step_time=step_time,
            cache=cache,
            devices=devices,
            steps=StepSpeed(**steps) if steps is not None else None,
        )
        policy = POLICIES[header["policy"]](PolicyConfig(**header["config"]))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            "not an event log as --record writes it: the first line is no header "
            f"({type(error).__name__})"
        ) from None
    return Machine(models=settings.models(), policy=policy, kinds=settings.kinds())


def _read_cache(fields: dict[str, Any]) -> CacheSpec:
    groups = tuple(PageGroup(**group) for group in fields.pop("groups"))
    return CacheSpec(**fields, groups=groups)


def replay(machine: Machine, *, lines: Iterable[str]) -> int:
    """Drives `machine` with recorded events; returns how many there were.

    Raises:
      ReplayError: a plan differs, with the event and both plans, or a line is damaged.
    """
    count = 0
    for number, line in enumerate(lines, start=2):
        try:
            recorded = json.loads(line)
            if "begun" in recorded or "figures" in recorded:
                continue
            event, now_s = decode_event(recorded["event"]), float(recorded["t"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ReplayError(
                f"line {number} is not readable, the log may be cut off ({error})"
            ) from None
        count += 1
        answer = machine.step(event, now_s=now_s)
        decisions = json.loads(json.dumps([encode(d) for d in answer.decisions]))
        if decisions != recorded["plan"]:
            raise ReplayError(
                f"line {number}, {recorded['event']}: recorded {recorded['plan']}, "
                f"now {decisions}"
            )
    return count
