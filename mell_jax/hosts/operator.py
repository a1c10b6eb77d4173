"""An operator's questions about a fleet of hosts get what a front end knows.

What changes where requests are is the controller's to do (`open_wishes`). What would
change all hosts at once is refused, by name, with what to do instead.
"""

from collections.abc import Callable
from dataclasses import replace

from mell_jax.engine.admin import (
    Answer,
    AskServing,
    Command,
    ListPlacements,
    NameWeights,
    Pause,
    Picture,
    Placement,
    Placements,
    ResetPrefixCache,
    Resume,
    ServingState,
    Sleep,
    Snapshot,
    UpdateWeights,
    Wake,
    pick,
)
from mell_jax.engine.fleet_view import FleetView
from mell_jax.engine.frames import Handle
from mell_jax.scheduler.hosts.view import Overview
from mell_jax.scheduler.ids import RequestId
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError

_RESTART = "restart its hosts one after another with the new ones: no stream is lost"
_INSTEAD: dict[type, str] = {
    UpdateWeights: _RESTART,
    NameWeights: _RESTART,
    Pause: "let clients wait, or stop mell-serve, which drains",
    Resume: "nothing was paused",
    Sleep: "parked device groups give memory back by themselves ([fleet] parking)",
    Wake: "nothing sleeps",
    ResetPrefixCache: "give requests another cache salt",
}


def not_here(command: type) -> str:
    """Returns why a command is refused, and what to do instead."""
    return f"a fleet of several hosts takes no {command.__name__}: {_INSTEAD[command]}"


def answer(
    command: Command,
    *,
    overview: Overview | None,
    view: FleetView | None,
    handle_of: Callable[[RequestId], Handle | None],
) -> Answer:
    """Returns the answer to a command.

    Args:
      overview: as the controller told it last; None before it has.
      view: as of now.
      handle_of: how the client of a request calls it; None for other front ends'.

    Raises:
      UnknownTargetError: it names something that is not there.
      NotPossibleError: a fleet of hosts does not do that, or nothing is known yet.
    """
    if isinstance(command, AskServing):
        return ServingState(is_paused=False, sleep_level=0, weights=())
    if type(command) in _INSTEAD:
        raise NotPossibleError(not_here(type(command)))
    if overview is None or view is None:
        raise NotPossibleError("the controller has told nothing yet; ask again soon")
    match command:
        case Snapshot():
            return Picture(policy=overview.policy, view=view)
        case ListPlacements():
            return _list(command, overview=overview, view=view, handle_of=handle_of)
        case _:
            raise AssertionError(f"{command} is neither answered nor refused")


def _list(
    command: ListPlacements,
    *,
    overview: Overview,
    view: FleetView,
    handle_of: Callable[[RequestId], Handle | None],
) -> Placements:
    """Lists requests; those that the controller has left out are only counted."""
    models = [model.name for model in overview.models]
    if command.model is not None and command.model not in models:
        raise UnknownTargetError(
            f"no model {command.model!r:.100} is served here; there is "
            f"{', '.join(models)}"
        )
    if command.device is not None and command.device not in view.names:
        known = ", ".join(f"{number} ({name})" for number, name in view.names.items())
        raise UnknownTargetError(
            f"there is no device {command.device}; there is {known:.1000}"
        )
    seen = overview.requests
    found = [
        Placement(
            request=request,
            handle=handle_of(request) or Handle(request),
            model=models[seen.models[at]],
            device=None if seen.devices[at] < 0 else seen.devices[at],
            target=None if seen.targets[at] < 0 else seen.targets[at],
            pages=seen.pages[at],
            prompt_tokens=seen.prompts[at],
            is_paused=seen.are_paused[at],
        )
        for at, request in enumerate(seen.numbers)
    ]
    picked = pick(found, command=command)
    if command.model is None and command.device is None:
        return replace(picked, total=picked.total + seen.left_out)
    return picked
