"""What the controller sends finds its way, in order."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.outbox import HangUp, Outbox, Send
from mell_jax.scheduler.hosts.roll import PeerId, Roll
from tests.scheduler.hosts.speech import (
    FRONT,
    HERE,
    LEFT,
    ONE,
    OTHER_FRONT,
    RIGHT,
    THEIRS,
    THERE,
)

A, B, C, D = PeerId(1), PeerId(2), PeerId(3), PeerId(4)
CLOSE = words.CloseGroup(device=RIGHT)


def outbox() -> tuple[Outbox, Roll]:
    """Of two hosts and two front ends."""
    roll = Roll(patience=2)
    roll.admit(HERE, name="a", peer=A, devices=[LEFT])
    roll.admit(THERE, name="b", peer=B, devices=[RIGHT])
    roll.enter(FRONT, peer=C)
    roll.enter(OTHER_FRONT, peer=D)
    return Outbox(roll), roll


def test_what_is_sent_is_taken_once_and_in_order() -> None:
    out, _ = outbox()
    out.send(C, words.Disowned(request=ONE))
    out.hang_up(A)
    out.send(B, CLOSE)
    assert out.take() == [
        Send(to=C, message=words.Disowned(request=ONE)),
        HangUp(peer=A),
        Send(to=B, message=CLOSE),
    ]
    assert out.take() == []


def test_a_message_goes_to_the_host_of_a_device() -> None:
    out, roll = outbox()
    out.send_device(RIGHT, CLOSE)
    roll.remove(roll.hosts[THERE])
    out.send_device(RIGHT, CLOSE)  # nobody is there
    assert out.take() == [Send(to=B, message=CLOSE)]


def test_a_message_goes_to_the_front_end_of_a_request() -> None:
    out, roll = outbox()
    disowned = words.Disowned(request=THEIRS)
    out.send_front(THEIRS, disowned)
    roll.forget(D)
    out.send_front(THEIRS, disowned)  # nobody is there
    assert out.take() == [Send(to=D, message=disowned)]


def test_all_are_told_but_those_who_are_left_out() -> None:
    out, _ = outbox()
    out.send_all(words.Beat())
    assert [effect.to for effect in out.take() if isinstance(effect, Send)] == [
        C,
        D,
        A,
        B,
    ]
    out.send_all(words.HostsChanged(gone=(THERE,)), but={A, C})
    assert [effect.to for effect in out.take() if isinstance(effect, Send)] == [D, B]


def test_a_link_is_hung_up_with_a_reason_if_its_word_was_wrong() -> None:
    out, _ = outbox()
    out.hang_up(A, reason="a host says Ask")
    assert out.take() == [HangUp(peer=A, reason="a host says Ask")]
