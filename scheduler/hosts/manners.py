"""Hosts say what hosts say and front ends what front ends say, of what is theirs.

    fault_of(message, speaker, models) -> None | "a front end says GroupOpened"

Who says anything else has a bug, or is of another version: its link is of no more use.
What is only late (of a request that is over, of a device that is gone) is no fault.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import FrontId, ModelId, front_of

_BY_HOST = frozenset(get_args(words.FromHost))
_BY_FRONT = frozenset(get_args(words.FromFront))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A front end is at the other end of a link; or a host, if `front` is None."""

    front: FrontId | None = None


def speaker_of(message: Any) -> Speaker | None:
    """Returns who says this as its first word; None: it is no first word."""
    match message:
        case words.Join():
            return Speaker()
        case words.Enter(front=front):
            return Speaker(front=front)
        case _:
            return None


def fault_of(
    message: Any, *, speaker: Speaker | None, models: Collection[ModelId]
) -> str | None:
    """Returns what is wrong with a message; None if nothing is.

    Args:
      speaker: None before somebody has said who that is.
    """
    kind = type(message)
    if speaker is None:
        return (
            None if kind in _BY_HOST | _BY_FRONT else f"somebody says {kind.__name__}"
        )
    if kind not in (_BY_HOST if speaker.front is None else _BY_FRONT):
        who = "a host" if speaker.front is None else f"front end {speaker.front}"
        return f"{who} says {kind.__name__}"
    faults = _FAULTS.get(kind)
    return next(faults(message, speaker, models), None) if faults is not None else None


def _faults_of_join(
    join: words.Join, speaker: Speaker, models: Collection[ModelId]
) -> Iterator[str]:
    for group in join.groups:
        if group.model is not None and group.model not in models:
            yield f"a group serves the unknown model {group.model!r}"
        if group.device not in join.admitted:
            yield f"device {group.device} was never admitted"
    working = join.num_groups if join.epoch is None else len(join.groups)
    for number in join.aside:
        if not (0 <= number < min(working, join.num_groups)):
            yield f"group {number} of {working} is set aside"
    if not (join.prefill_tokens_per_s > 0):
        yield f"a host prefills {join.prefill_tokens_per_s} tokens a second"


def _faults_of_group(
    opened: words.GroupOpened, speaker: Speaker, models: Collection[ModelId]
) -> Iterator[str]:
    if opened.model not in models:
        yield f"a group serves the unknown model {opened.model!r}"
    if not (0 <= opened.took_s < math.inf):
        yield f"a group was opened in {opened.took_s} s"


def _faults_of_enter(
    enter: words.Enter, speaker: Speaker, models: Collection[ModelId]
) -> Iterator[str]:
    if enter.front != speaker.front:
        yield f"front end {speaker.front} says that it is {enter.front}"
    for stream in enter.streams:
        yield from _faults_of_ask(stream.ask, speaker, models)


def _faults_of_request(
    message: words.Over | words.Broken, speaker: Speaker, models: Collection[ModelId]
) -> Iterator[str]:
    if front_of(message.request) != speaker.front:
        yield f"front end {speaker.front} speaks of request {message.request}"


def _faults_of_ask(
    ask: words.Ask, speaker: Speaker, models: Collection[ModelId]
) -> Iterator[str]:
    if front_of(ask.request) != speaker.front:
        yield f"front end {speaker.front} speaks of request {ask.request}"
    if ask.model not in models:
        yield f"request {ask.request} is for the unknown model {ask.model!r}"
    if not (ask.pages >= 1 and ask.known >= ask.prompt >= 0):
        yield (
            f"request {ask.request} has {ask.known} tokens, {ask.prompt} of them its "
            f"prompt, in {ask.pages} pages"
        )
    if not (ask.weight > 0):
        yield f"request {ask.request} has the weight {ask.weight}"


_FAULTS: dict[type, Callable[[Any, Speaker, Collection[ModelId]], Iterator[str]]] = {
    words.Join: _faults_of_join,
    words.GroupOpened: _faults_of_group,
    words.Enter: _faults_of_enter,
    words.Ask: _faults_of_ask,
    words.Over: _faults_of_request,
    words.Broken: _faults_of_request,
}
"""Of messages that can be wrong though they may be said."""
