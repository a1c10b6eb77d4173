"""What an operator of a fleet of hosts is told, and what is refused."""

from dataclasses import replace

import pytest

from mell_jax.engine import admin
from mell_jax.engine.admin import (
    Answer,
    AskServing,
    Command,
    ListPlacements,
    Pause,
    Picture,
    Placement,
    Placements,
    ServingState,
    Snapshot,
    Wake,
)
from mell_jax.engine.frames import Handle
from mell_jax.hosts import operator
from mell_jax.hosts.open_wishes import Wanted
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from tests.hosts.test_viewer import D1, D4, HANDLE, ONE, OVERVIEW, THEIRS, told

VIEW = told().view()


def ask(command: Command) -> Answer:
    return operator.answer(
        command,
        overview=OVERVIEW,
        view=VIEW,
        handle_of=lambda request: HANDLE if request == ONE else None,
    )


def test_a_snapshot_is_the_view() -> None:
    assert ask(Snapshot()) == Picture(policy="best_fit", view=VIEW)


def test_placements_are_those_that_the_controller_told() -> None:
    here = Placement(
        request=ONE,
        handle=HANDLE,
        model="m",
        device=D1,
        target=D4,
        pages=6,
        prompt_tokens=10,
        is_paused=False,
    )
    assert ask(ListPlacements(device=D4)) == Placements(placements=(here,), total=1)
    answer = ask(ListPlacements())
    assert isinstance(answer, Placements)
    assert answer.placements == (
        here,
        replace(
            here,
            request=THEIRS,
            handle=Handle(THEIRS),
            device=None,
            target=None,
            pages=2,
            prompt_tokens=12,
        ),
    )
    assert answer.total == 2 + OVERVIEW.requests.left_out


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(UnknownTargetError, match=r"device 3; there is 11 \(left/0\)"):
        ask(ListPlacements(device=3))
    with pytest.raises(UnknownTargetError, match="no model 'x' is served here; there"):
        ask(ListPlacements(model="x"))


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (Wake(), "takes no Wake: nothing sleeps"),
        (Pause(), "takes no Pause: let clients wait"),
    ],
)
def test_what_changes_something_is_refused_with_what_to_do(
    command: Command, instead: str
) -> None:
    with pytest.raises(NotPossibleError, match=instead):
        ask(command)


def test_every_command_is_answered_or_refused() -> None:
    kinds = set(admin.Command.__args__)
    answered = {Snapshot, ListPlacements, AskServing, admin.AbortOpen}
    assert kinds == answered | set(Wanted.__args__) | set(operator._INSTEAD)


def test_a_fleet_of_hosts_always_serves() -> None:
    assert ask(AskServing()) == ServingState(is_paused=False, sleep_level=0, weights=())


def test_before_the_controller_has_told_anything_nobody_knows() -> None:
    with pytest.raises(NotPossibleError, match="has told nothing yet"):
        operator.answer(Snapshot(), overview=None, view=None, handle_of=lambda _: None)
