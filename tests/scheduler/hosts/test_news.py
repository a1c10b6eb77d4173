"""Who has come and gone, as the controller's log will tell it."""

from collections.abc import Sequence
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.news import (
    Adopted,
    FrontGone,
    HostAdmitted,
    HostFenced,
    HostLeft,
    HostLost,
    News,
    Watch,
)
from mell_jax.scheduler.hosts.roll import PeerId
from tests.scheduler.hosts.speech import FRONT, ONE, ask
from tests.scheduler.hosts.test_coordinator import (
    FIRST,
    SECOND,
    A,
    B,
    C,
    fleet,
    host_join,
    new,
)

CAUSE = "its link has ended"


class Watched:
    """A coordinator with a watch; what is heard comes out as news."""

    def __init__(self, coordinator=None) -> None:
        self.coordinator = coordinator or fleet().coordinator
        self._watch = Watch(self.coordinator)

    def hear(self, peer: PeerId, message: Any) -> Sequence[News]:
        done = self.coordinator.heard(peer, message, now_s=0.0)
        return self._watch.look(done, cause=CAUSE)

    def cut(self, peer: PeerId) -> Sequence[News]:
        done = self.coordinator.cut(peer, now_s=0.0)
        return self._watch.look(done, cause=CAUSE)

    def beat(self) -> Sequence[News]:
        return self._watch.look(self.coordinator.beat(now_s=0.0), cause="silence")


def test_a_controller_that_begins_tells_what_it_has_adopted() -> None:
    watched = Watched(new())
    watched.hear(C, words.Enter(front=FRONT))
    watched.hear(A, host_join("a"))
    news = [one for _ in range(2) for one in watched.beat()]
    assert news == [
        HostAdmitted(name="a", epoch=FIRST, groups=1),
        Adopted(hosts=1, fronts=1, requests=0),
    ]


def test_a_host_that_is_cut_off_is_lost() -> None:
    assert Watched().cut(A) == [HostLost(name="a", epoch=FIRST, reason=CAUSE)]


def test_a_silent_host_is_lost_by_its_silence() -> None:
    watched = Watched()
    news = []
    for _ in range(5):
        watched.hear(B, words.Beat())
        watched.hear(C, words.Beat())
        news += watched.beat()
    assert news == [HostLost(name="a", epoch=FIRST, reason="silence")]


def test_a_host_that_a_front_end_does_not_reach_is_fenced() -> None:
    news = Watched().hear(C, words.Unreachable(epoch=SECOND))
    assert news == [
        HostFenced(name="b", epoch=SECOND, reason="most front ends have no link to it")
    ]


def test_a_host_that_leaves_has_left() -> None:
    watched = Watched()
    assert watched.hear(A, words.Leave()) == ()
    assert watched.cut(A) == [HostLeft(name="a", epoch=FIRST)]


def test_a_host_that_leaves_has_left_also_if_a_front_end_hears_it_first() -> None:
    watched = Watched()
    watched.hear(A, words.Leave())
    news = watched.hear(C, words.Unreachable(epoch=FIRST))
    assert news == [HostLeft(name="a", epoch=FIRST)]


def test_a_front_end_that_is_cut_off_is_gone() -> None:
    watched = Watched()
    watched.hear(C, ask(ONE))
    assert watched.cut(C) == [FrontGone(front=FRONT)]


def test_what_changes_nobody_is_no_news() -> None:
    watched = Watched()
    assert watched.hear(C, ask(ONE)) == ()
    assert watched.beat() == ()
