"""Who says what is not its to say loses its link; others are not harmed."""

import math
from dataclasses import replace
from typing import Any

import pytest

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.manners import Speaker, fault_of
from mell_jax.scheduler.hosts.outbox import HangUp
from mell_jax.scheduler.ids import CopyId, Epoch, ModelId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.speech import (
    FRONT,
    LEFT,
    ONE,
    OTHER_FRONT,
    THEIRS,
    ask,
)
from tests.scheduler.hosts.test_coordinator import A, B, C, Talk, host_join, running

HOST, FRONT_END = Speaker(), Speaker(front=FRONT)
STRANGE = ModelId("strange")
TOLD = words.Told(device=LEFT, message=messages.Started(request=ONE, copy_id=CopyId(1)))
WANT = words.Want(request=ONE, copy_id=CopyId(256), pages=6)


def stream(of: words.Ask) -> words.StreamReport:
    return words.StreamReport(ask=of, copy_id=None, epoch=None, device=None)


def opened(**kwargs: Any) -> words.GroupOpened:
    return replace(
        words.GroupOpened(device=LEFT, model=ONLY_MODEL, took_s=1.0), **kwargs
    )


def joined(**kwargs: Any) -> words.Join:
    return replace(host_join("a"), **kwargs)


@pytest.mark.parametrize("message", [TOLD, WANT, opened(), joined(), words.Beat()])
def test_a_host_may_say_what_hosts_say(message: Any) -> None:
    assert fault_of(message, speaker=HOST, models={ONLY_MODEL}) is None
    assert fault_of(message, speaker=None, models={ONLY_MODEL}) is None


@pytest.mark.parametrize(
    "message",
    [ask(), words.Over(request=ONE), words.Enter(front=FRONT), words.Beat()],
)
def test_a_front_end_may_say_what_front_ends_say(message: Any) -> None:
    assert fault_of(message, speaker=FRONT_END, models={ONLY_MODEL}) is None


UNKNOWN_GROUP = words.GroupReport(device=LEFT, model=None, since=CopyId(1))
STRANGE_GROUP = words.GroupReport(device=LEFT, model=STRANGE, since=CopyId(1))


@pytest.mark.parametrize(
    ("speaker", "message", "fault"),
    [
        (HOST, ask(), "a host says Ask"),
        (HOST, words.Enter(front=FRONT), "a host says Enter"),
        (HOST, words.Fenced(reason=""), "a host says Fenced"),
        (FRONT_END, TOLD, "front end 3 says Told"),
        (FRONT_END, joined(), "front end 3 says Join"),
        (FRONT_END, words.Hosts(hosts=()), "front end 3 says Hosts"),
        (None, words.CloseGroup(device=LEFT), "somebody says CloseGroup"),
        (None, 7, "somebody says int"),
        (FRONT_END, words.Enter(front=OTHER_FRONT), "says that it is 4"),
        (
            FRONT_END,
            words.Enter(front=FRONT, streams=(stream(ask(THEIRS)),)),
            "3 speaks of",
        ),
        (FRONT_END, ask(THEIRS), "front end 3 speaks of"),
        (FRONT_END, words.Over(request=THEIRS), "front end 3 speaks of"),
        (
            FRONT_END,
            words.Broken(request=THEIRS, copy_id=CopyId(1)),
            "front end 3 speaks of",
        ),
        (FRONT_END, replace(ask(), model=STRANGE), "unknown model 'strange'"),
        (FRONT_END, ask(pages=0), "in 0 pages"),
        (FRONT_END, ask(known=3), "has 3 tokens, 4 of them its prompt"),
        (FRONT_END, replace(ask(), weight=math.nan), "weight nan"),
        (HOST, opened(model=STRANGE), "unknown model 'strange'"),
        (HOST, opened(took_s=math.nan), "opened in nan s"),
        (HOST, opened(took_s=-1.0), "opened in -1.0 s"),
        (HOST, joined(groups=(STRANGE_GROUP,)), "unknown model 'strange'"),
        (HOST, joined(prefill_tokens_per_s=0.0), "prefills 0.0 tokens"),
        (HOST, joined(aside=(1,)), "group 1 of 1 is set aside"),
        (HOST, joined(aside=(-1,)), "group -1 of 1 is set aside"),
        (HOST, joined(epoch=Epoch(1), aside=(0,)), "group 0 of 0 is set aside"),
        (HOST, joined(groups=(UNKNOWN_GROUP,)), "device 1 was never admitted"),
    ],
)
def test_what_is_wrong_is_told(
    speaker: Speaker | None, message: Any, fault: str
) -> None:
    told = fault_of(message, speaker=speaker, models={ONLY_MODEL})
    assert told is not None and fault in told


def test_a_host_with_a_wrong_word_is_hung_up_and_lost_and_others_go_on() -> None:
    talk = running(ONE)
    effects = talk.coordinator.heard(A, ask(THEIRS), now_s=0.0)
    assert effects[0] == HangUp(peer=A, reason="a host says Ask")
    assert list(talk.coordinator.roll.hosts) == [Epoch(2)]
    assert set(talk.coordinator.requests) == {ONE}  # and starts again at the other
    assert (B, "OpenGroup") in [
        (effect.to, type(effect.message).__name__)
        for effect in effects
        if not isinstance(effect, HangUp)
    ]


def test_a_front_end_with_a_wrong_word_ends_its_own_requests_alone() -> None:
    talk = running(ONE)
    talk.hear(B, words.Beat())
    said = talk.hear(C, TOLD)
    assert said[0] == (C, None)
    assert talk.coordinator.requests == {}
    assert len(talk.coordinator.roll.hosts) == 2


def test_a_wrong_word_while_reports_are_awaited_voids_the_report() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, joined())
    assert talk.hear(A, ask()) == [(A, None)]
    for _ in range(5):
        talk.hear(C, words.Beat())
        talk.beat()
    assert talk.coordinator.is_adopting  # no host has reported
