"""What the dispatcher makes of decisions and answers, told through a coordinator."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import CopyId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.speech import ONE
from tests.scheduler.hosts.test_coordinator import (
    RIGHT,
    A,
    B,
    C,
    Talk,
    _kinds,
    running,
    told,
)

MOVED = CopyId(512)


def moving() -> Talk:
    """The first host is about to leave: its request moves to the second one."""
    talk = running(ONE)
    talk.hear(A, words.Leave())
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    assert _kinds(talk.hear(B, opened)) == [(C, "Reserve")]
    return talk


def test_the_target_of_a_move_stays_open_when_its_source_is_lost() -> None:
    talk = moving()
    assert _kinds(talk.cut(A)) == [
        (C, "Hosts"),
        (B, "Hosts"),
        (B, "Release"),  # of what was kept for the move
        (C, "Disowned"),
    ]  # and not CloseGroup and OpenGroup: the weights would be loaded again
    released = messages.Released(request=ONE, copy_id=MOVED)
    assert _kinds(talk.hear(B, told(released, device=RIGHT))) == [(C, "Start")]
    assert list(talk.coordinator.machine.ledger.instances) == [RIGHT]
