import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mell_jax.engine.frames import (
    Abort,
    EngineStopped,
    Finished,
    FinishReason,
    Handle,
    Logprobs,
    NewVersion,
    PromptDone,
    StepFrame,
    Submit,
)
from mell_jax.engine.histogram import Histogram
from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import AdmissionLimits
from mell_jax.frontend.meter import Meter
from mell_jax.frontend.share import Counted, Held, Use
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.processes.wire import (
    AbortRequests,
    Beat,
    Claim,
    Claimed,
    Codec,
    CountAsked,
    CountTold,
    DrainFrontEnd,
    FrontEndFailure,
    FrontEndReady,
    Grown,
    Hurry,
    ModelPlace,
    Pulse,
    ReleaseClaim,
    StepMessage,
    Welcome,
    WireError,
    to_engine,
    to_front,
)
from mell_jax.serving.security.config import SecurityConfig
from tests.serving.fake_engine import INFO, FakeEngine, fake_logprobs
from tests.serving.test_metrics import VIEW

LOAD = FakeEngine().load()
COUNTED = Counted(models=Meter(["a", "b"]).measured(), refused={"overloaded": 3})
HELD = Held(
    requests=2,
    everyone=Use(open=3, queued=2, queued_tokens=10),
    tenants={"": Use(open=3), "ü": Use()},
)
BEAT = Beat(counted=COUNTED, held=HELD)
SUBMIT = Submit(
    handle=Handle(7),
    prompt=np.array([1, 2, 3], np.int32),
    params=SamplingParams(
        temperature=0.5, logit_bias={3: -1.5}, stop=("a", "b"), seed=-(2**63), n=2
    ),
    model="letters",
    salt=b"\x00\xff",
    tenant="alice",
    weight=2.5,
)
FRAME = StepFrame(
    handles=np.array([2**40 + 1, 2**40 + 5], np.int64),
    tokens=np.array([30, 0], np.int32),
    logprobs=fake_logprobs([30, 0]),
    prompts=(
        PromptDone(handle=Handle(5), cached_tokens=16, logprobs=fake_logprobs([1])),
        PromptDone(handle=Handle(6), cached_tokens=0, logprobs=None),
    ),
    finished=(
        Finished(handle=Handle(5), reason=FinishReason.STOP, stop_token=0),
        Finished(
            handle=Handle(6), reason=FinishReason.ERROR, message="no", field="top_p"
        ),
    ),
    versions=(NewVersion(version="a", handles=(Handle(5), Handle(6))),),
)


def same(one: object, other: object) -> bool:
    """Equality, also of arrays inside."""
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and bool((one == other).all())
        )
    if isinstance(one, StepFrame | StepMessage | PromptDone | Logprobs | Submit):
        names = type(one).__dataclass_fields__
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in names
        )
    if isinstance(one, tuple):
        assert isinstance(other, tuple)
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def pass_through(codec: Codec, *messages: object) -> list[object]:
    return codec.reader().feed(b"".join(codec.encode(m) for m in messages))


@pytest.mark.parametrize(
    "message",
    [
        Welcome(
            number=3,
            is_alone=False,
            verbosity=-1,
            config=ServerConfig(
                port=1,
                frontends=2,
                health_port=5,
                limits=AdmissionLimits(max_queued=3, queue_timeout_s=0.5),
                security=SecurityConfig(tls_cert="c", tls_key="k", tokens_file="t"),
                chat_templates=("a=b",),
            ),
            infos=(INFO,),
            models=(
                ModelPlace(name="a", path="/a", tokenizer_dir=Path("/b")),
                ModelPlace(name="b", path="", tokenizer_dir=None),
            ),
            load=LOAD,
        ),
        StepMessage(frame=FRAME, load=LOAD),
        Pulse(load=LOAD, is_ready=False),
        DrainFrontEnd(),
        Hurry(),
        EngineStopped(message="oh"),
        AbortRequests(request_ids=("a", "ü")),
        CountTold(number=2**40, counted=COUNTED, load=LOAD),
        Pulse(load=LOAD, is_ready=True, others=HELD),
        Grown(part=HELD),
        Claimed(number=7, is_free=False),
    ],
)
def test_front_ends_read_what_the_engine_wrote(message: object) -> None:
    (read,) = pass_through(to_front(), message)
    assert same(message, read)


@pytest.mark.parametrize(
    "message",
    [
        SUBMIT,
        Abort(handles=(Handle(1), Handle(2**62))),
        AbortRequests(request_ids=()),
        FrontEndReady(address="[::1]:5"),
        FrontEndFailure(message="no"),
        BEAT,
        CountAsked(number=1, counted=COUNTED),
        Grown(part=HELD),
        Claim(number=7, request_id="ü"),
        ReleaseClaim(request_id="ü"),
    ],
)
def test_the_engine_reads_what_front_ends_wrote(message: object) -> None:
    (read,) = pass_through(to_engine(), message)
    assert same(message, read)


def test_messages_may_come_in_any_pieces() -> None:
    codec = to_engine()
    data = codec.encode(SUBMIT) + codec.encode(BEAT)
    reader = codec.reader()
    read = [m for i in range(len(data)) for m in reader.feed(data[i : i + 1])]
    assert same(read[0], SUBMIT)
    assert read[1:] == [BEAT]


def frame_of(body: bytes, *, kind: int = 0, size: int | None = None) -> bytes:
    return struct.pack("<IB", len(body) if size is None else size, kind) + body


def submit_with(**changes: object) -> bytes:
    """A submission as a hostile front end might write it."""
    fields = {"handle": 7, "prompt": [[1], b"\x01\0\0\0"], "params": {}, **changes}
    return frame_of(msgspec.msgpack.encode(fields))


def test_a_submission_may_leave_out_what_has_a_default() -> None:
    (read,) = to_engine().reader().feed(submit_with())
    assert same(
        read,
        Submit(
            handle=Handle(7), prompt=np.array([1], np.int32), params=SamplingParams()
        ),
    )


@pytest.mark.parametrize(
    "data",
    [
        frame_of(b"", kind=99),
        frame_of(b""),
        frame_of(b"\xc1"),
        frame_of(b"cbuiltins\nexec\n"),  # the beginning of a pickle
        frame_of(b"", size=2**24 + 1),
        submit_with(handle="7"),
        submit_with(prompt=[[2], b"\x01\0\0\0"]),
        submit_with(prompt=[[1], b"\x01\0\0"]),
        submit_with(prompt=[[-2], b"\x01\0\0\0"]),
        submit_with(prompt=[["a"], b"\x01\0\0\0"]),
        submit_with(prompt=5),
        submit_with(params={"temperature": float("nan")}),
        submit_with(params={"n": 10**9}),
        submit_with(params={"logit_bias": {"a": 1.0}}),
        submit_with(salt="text"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        to_engine().reader().feed(data)


def test_a_message_that_nobody_would_take_is_not_sent() -> None:
    codec = Codec((FrontEndFailure,), max_bytes=10)
    with pytest.raises(
        WireError, match="a FrontEndFailure of 29 bytes exceeds the 10 that"
    ):
        codec.encode(FrontEndFailure(message="a long message here"))


def test_what_has_no_word_cannot_be_sent() -> None:
    with pytest.raises(TypeError, match="object cannot be sent"):
        Codec((object,), max_bytes=10).encode(object())


def test_a_fleet_s_view_and_the_phases_of_steps_can_be_sent() -> None:
    phases = {"plan": Histogram.of([0.5], bounds=(0.1, 1.0))}
    load = replace(LOAD, fleet=VIEW, phases=phases)
    (read,) = pass_through(to_front(), Pulse(load=load, is_ready=True))
    assert read == Pulse(load=load, is_ready=True)
