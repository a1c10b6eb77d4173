"""Who is in the fleet, and for how long they may be silent."""

import pytest

from mell_jax.scheduler.hosts.roll import FrontEntry, HostEntry, PeerId, Roll
from mell_jax.scheduler.ids import DeviceGroupId
from tests.scheduler.hosts.speech import (
    FRONT,
    HERE,
    LEFT,
    ONE,
    OTHER_FRONT,
    RIGHT,
    THEIRS,
    THERE,
    host,
)

A, B, C = PeerId(1), PeerId(2), PeerId(3)


def roll_of_two() -> Roll:
    """Two hosts and a front end."""
    roll = Roll(patience=2)
    roll.admit(HERE, name=f"host of {HERE}", peer=A, devices=[LEFT])
    roll.admit(THERE, name=f"host of {THERE}", peer=B, devices=[RIGHT])
    roll.enter(FRONT, peer=C)
    return roll


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_is_a_beat_at_least(patience: int) -> None:
    with pytest.raises(ValueError, match="patience must be >= 1 beat"):
        Roll(patience=patience)


def test_entries_are_found_by_link_and_by_device() -> None:
    roll = roll_of_two()
    here, front = roll.who(A), roll.who(C)
    assert isinstance(here, HostEntry) and here.epoch == HERE
    assert isinstance(front, FrontEntry) and front.front == FRONT
    assert roll.who(PeerId(9)) is None
    assert roll.host_of(LEFT) is here
    assert roll.host_of(DeviceGroupId(9)) is None
    assert roll.told() == (host(HERE, LEFT), host(THERE, RIGHT))


def test_who_is_silent_for_too_long_is_named_until_forgotten() -> None:
    roll = roll_of_two()
    roll.heard(A)
    roll.heard(B)
    assert roll.beat() == roll.beat() == []
    roll.heard(B)
    assert roll.beat() == [A]
    roll.forget(A)
    assert roll.beat() == []
    assert roll.beat() == [B]


def test_a_host_that_is_removed_may_still_be_heard() -> None:
    roll = roll_of_two()
    here = roll.hosts[HERE]
    roll.heard(A)
    roll.remove(here)
    roll.remove(here)
    assert roll.who(A) is None
    assert roll.host_of(LEFT) is None
    assert roll.told() == (host(THERE, RIGHT),)
    assert [roll.beat() for _ in range(3)] == [[], [], [A]]


def test_a_host_whose_link_ends_is_gone() -> None:
    roll = roll_of_two()
    roll.forget(B)
    assert roll.host_of(RIGHT) is None
    assert list(roll.hosts) == [HERE]


def test_a_host_is_answered_for_when_all_front_ends_have_spoken_of_it() -> None:
    roll = roll_of_two()
    here = roll.hosts[HERE]
    assert not roll.is_answered(here)
    roll.reach(here, FRONT)
    assert roll.is_answered(here)
    roll.enter(OTHER_FRONT, peer=PeerId(4))
    assert not roll.is_answered(here)
    roll.miss(here, OTHER_FRONT)
    assert roll.is_answered(here)


def test_a_host_is_cut_off_when_most_front_ends_miss_it() -> None:
    roll = roll_of_two()
    here = roll.hosts[HERE]
    roll.enter(OTHER_FRONT, peer=PeerId(4))
    roll.reach(here, FRONT)
    roll.miss(here, OTHER_FRONT)
    assert not roll.is_cut_off(here)  # the controller hears it, too
    assert (roll.may_go(ONE, LEFT), roll.may_go(THEIRS, LEFT)) == (True, False)
    assert roll.may_go(THEIRS, RIGHT)
    roll.miss(here, FRONT)
    assert roll.is_cut_off(here)
    roll.reach(here, FRONT)
    roll.reach(here, OTHER_FRONT)
    assert not roll.is_cut_off(here)
    assert roll.may_go(THEIRS, LEFT)


def test_of_a_front_end_that_is_gone_nothing_counts() -> None:
    roll = roll_of_two()
    here = roll.hosts[HERE]
    roll.enter(OTHER_FRONT, peer=PeerId(4))
    roll.reach(here, FRONT)
    roll.miss(here, OTHER_FRONT)
    roll.forget(PeerId(4))
    assert roll.is_answered(here)
    assert here.missed == set()


def test_a_front_end_that_goes_has_reached_nobody() -> None:
    roll = roll_of_two()
    roll.hosts[HERE].reached.add(FRONT)
    roll.forget(C)
    assert roll.fronts == {}
    assert roll.hosts[HERE].reached == set()


def test_an_older_link_of_a_front_end_does_not_end_the_newer() -> None:
    roll = roll_of_two()
    roll.enter(FRONT, peer=PeerId(4))
    roll.forget(C)
    assert roll.fronts[FRONT].peer == PeerId(4)


def test_a_failed_group_is_its_hosts_no_more() -> None:
    roll = roll_of_two()
    roll.drop_device(roll.hosts[HERE], LEFT)
    assert roll.hosts[HERE].devices == ()
    assert roll.host_of(LEFT) is None
    roll.remove(roll.hosts[HERE])
