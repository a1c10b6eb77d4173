"""The engine's end of a link, with a test at the other end instead of a front end."""

import queue
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from mell_jax.engine.frames import (
    Abort,
    Finished,
    FinishReason,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.engine.params import SamplingParams
from mell_jax.frontend.share import Counted, Held
from mell_jax.serving.processes.link import FrontLink, Gone, Heard
from mell_jax.serving.processes.outbox import Outbox
from mell_jax.serving.processes.shared_counts import SharedCounts
from mell_jax.serving.processes.wire import (
    Beat,
    Claim,
    Claimed,
    CountAsked,
    CountTold,
    FrontEndFailure,
    FrontEndReady,
    Grown,
    ReleaseClaim,
    to_engine,
    to_front,
)
from tests.serving.fake_engine import FakeEngine

OURS = 3 << 40
LOAD = FakeEngine().load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    link: FrontLink
    counts: SharedCounts
    far: socket.socket
    told: queue.SimpleQueue[Heard | Gone] = field(default_factory=queue.SimpleQueue)
    engine: queue.SimpleQueue[Submit | Abort] = field(default_factory=queue.SimpleQueue)
    passed_on: queue.SimpleQueue[Grown] = field(default_factory=queue.SimpleQueue)

    def say(self, message: object) -> None:
        self.far.sendall(to_engine().encode(message))

    def gone(self) -> Gone:
        event = self.told.get(timeout=30)
        assert isinstance(event, Gone)
        return event


@contextmanager
def bench(*, max_unread_bytes: int = 10**6) -> Iterator[Bench]:
    near, far = socket.socketpair()
    told: queue.SimpleQueue[Heard | Gone] = queue.SimpleQueue()
    engine: queue.SimpleQueue[Submit | Abort] = queue.SimpleQueue()
    passed_on: queue.SimpleQueue[Grown] = queue.SimpleQueue()
    counts = SharedCounts()
    link = FrontLink(
        near,
        number=3,
        codec=to_front(),
        counts=counts,
        load=lambda: LOAD,
        submit=engine.put,
        tell=told.put,
        pass_on=passed_on.put,
        max_unread_bytes=max_unread_bytes,
    )
    link.start()
    with far:
        yield Bench(
            link=link,
            counts=counts,
            far=far,
            told=told,
            engine=engine,
            passed_on=passed_on,
        )
        link.fail("the test is over")
        link.join()


def submit(number: int) -> Submit:
    return Submit(
        handle=Handle(OURS + number),
        prompt=np.array([1], np.int32),
        params=SamplingParams(),
    )


def frame(*numbers: int, finished: tuple[Finished, ...] = ()) -> StepFrame:
    return StepFrame(
        handles=np.array([OURS + n for n in numbers], np.int64),
        tokens=np.ones(len(numbers), np.int32),
        finished=finished,
    )


def test_what_a_front_end_leaves_behind_is_aborted() -> None:
    with bench() as b:
        for number in (1, 2, 3):
            b.say(submit(number))
            assert isinstance(b.engine.get(timeout=30), Submit)
        end = Finished(handle=Handle(OURS + 2), reason=FinishReason.STOP)
        b.link.send_step(frame(1, 2, 3, finished=(end,)), load=LOAD)
        b.far.close()
        lost = b.engine.get(timeout=30)
        assert isinstance(lost, Abort)
        assert set(lost.handles) == {OURS + 1, OURS + 3}
        assert b.gone().number == 3


def test_words_for_the_supervisor_reach_it() -> None:
    with bench() as b:
        b.say(FrontEndReady(address="here"))
        assert b.told.get(timeout=30) == Heard(
            number=3, message=FrontEndReady(address="here")
        )


def test_who_cannot_serve_may_say_why() -> None:
    with bench() as b:
        b.say(FrontEndFailure(message="no such tokenizer"))
        b.far.close()
        assert b.gone().reason == "no such tokenizer"


def test_a_beat_answers_all_pulses() -> None:
    with bench() as b:
        b.link.unanswered = 5
        b.say(Beat(counted=Counted(refused={"overloaded": 2}), held=Held(requests=5)))
        b.say(FrontEndReady(address="here"))
        b.told.get(timeout=30)
        assert b.link.unanswered == 0
        assert b.counts.counted_by_others(4).refused == {"overloaded": 2}
        assert b.counts.held_by_others(4).requests == 5


def test_growth_is_passed_on() -> None:
    with bench() as b:
        grown = Grown(part=Held(requests=5))
        b.say(grown)
        assert b.passed_on.get(timeout=30) == grown
        assert b.counts.held_by_others(4).requests == 5
        b.far.close()
        assert b.gone().number == 3
        assert b.counts.held_by_others(4).requests == 0


def test_who_asks_hears_what_others_have_counted_and_is_heard() -> None:
    with bench() as b:
        b.counts.count(4, Counted(refused={"draining": 1}))
        own = Counted(refused={"overloaded": 2})
        b.say(CountAsked(number=9, counted=own))
        (told,) = to_front().reader().feed(b.far.recv(2**16))
        theirs = Counted(refused={"draining": 1})
        assert told == CountTold(number=9, counted=theirs, load=LOAD)
        assert b.counts.counted_by_others(4) == own


def test_who_claims_an_id_hears_whether_it_is_free() -> None:
    with bench() as b:
        assert b.counts.claim(4, "theirs")
        b.say(Claim(number=1, request_id="ours"))
        b.say(Claim(number=2, request_id="theirs"))
        b.say(ReleaseClaim(request_id="theirs"))  # it is not ours to give
        b.say(ReleaseClaim(request_id="ours"))
        b.say(Claim(number=3, request_id="ours"))
        reader, told = to_front().reader(), []
        while len(told) < 3:
            told += reader.feed(b.far.recv(2**16))
        assert told == [
            Claimed(number=1, is_free=True),
            Claimed(number=2, is_free=False),
            Claimed(number=3, is_free=True),
        ]
        assert not b.counts.claim(4, "ours")
        b.far.close()
        assert b.gone().number == 3
        assert b.counts.claim(4, "ours")


def test_what_the_dead_have_counted_stays() -> None:
    with bench() as b:
        b.say(CountAsked(number=1, counted=Counted(refused={"overloaded": 2})))
        assert b.far.recv(2**16)
        b.far.close()
        assert b.gone().number == 3
        assert b.counts.counted_by_others(4).refused == {"overloaded": 2}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("<IB", 3, 0) + b"\xc1\xc1\xc1", "a message cannot be read"),
        (struct.pack("<IB", 2**31, 0), "a message of 2147483648 bytes"),
        (b"\x01\x00\x00\x00\x63a", "there is no message of kind 99"),
        (
            to_engine().encode(
                Submit(
                    handle=Handle(4 << 40),
                    prompt=np.array([1], np.int32),
                    params=SamplingParams(),
                )
            ),
            "handle 4398046511104 is another front end's",
        ),
        (
            to_engine().encode(Abort(handles=(Handle(1),))),
            "handle 1 is another front end's",
        ),
    ],
)
def test_nonsense_ends_the_front_end_alone(data: bytes, reason: str) -> None:
    with bench() as b:
        b.say(submit(1))
        assert isinstance(b.engine.get(timeout=30), Submit)
        b.far.sendall(data)
        gone = b.gone()
        assert gone.reason.startswith(reason)
        assert not gone.is_by_itself
        assert b.engine.get(timeout=30) == Abort(handles=(Handle(OURS + 1),))
        assert b.engine.empty()


def test_who_does_not_read_is_given_up_and_never_waited_for() -> None:
    with bench(max_unread_bytes=100_000) as b:
        for _ in range(100_000):  # 7 MB: more than a socket holds
            b.link.send_step(frame(1), load=LOAD)
        assert b.gone().reason == "it does not read what it is sent"


def test_who_reads_is_never_given_up() -> None:
    with bench(max_unread_bytes=100_000) as b:
        reader, seen = to_front().reader(), 0
        for _ in range(500):
            for _ in range(100):
                b.link.send_step(frame(1), load=LOAD)
            while seen % 100 or not seen:
                seen += len(reader.feed(b.far.recv(2**16)))
            seen = 0
        assert b.told.empty()


def test_an_outbox_is_bounded_by_what_is_waiting_and_what_is_written() -> None:
    outbox = Outbox(max_bytes=5)
    assert outbox.put(b"abc")
    assert not outbox.put(b"def")
    assert outbox.put(b"de")
    data = outbox.take()
    assert data == b"abcde"
    assert not outbox.put(b"f")
    outbox.done(data)
    assert outbox.put(b"f")
    outbox.close()
    assert (outbox.take(), outbox.take()) == (b"f", b"")
