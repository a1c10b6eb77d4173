"""Operators' calls about pauses, sleep and weights on a real socket."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from mell_jax.engine.admin import (
    AbortOpen,
    AskServing,
    NameWeights,
    Pause,
    ResetPrefixCache,
    Resume,
    Sleep,
    Wake,
)
from mell_jax.serving.admin.asked import asked_of
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.port import serving_admin
from mell_jax.serving.proto import mell_admin_pb2 as pb
from mell_jax.serving.proto import mell_admin_pb2_grpc as rpc
from tests.serving.admin.fake_administration import FakeAdministration

BAD = grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def operated(fake: FakeAdministration, *, root: Path) -> Iterator[rpc.AdminStub]:
    controls = Controls(
        fake.ask, loader=fake, weights_dirs=(str(root),), abort=fake.abort
    )
    door = serving_admin(controls, port=0, tokens_file="", is_reflection_on=False)
    with contextlib.closing(controls), door as address:
        assert address is not None
        with grpc.insecure_channel(address) as channel:
            yield rpc.AdminStub(channel)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("step-1", "bad", "broken"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("method", "request_", "asked"),
    [
        ("Pause", pb.PauseRequest(), Pause(mode="keep")),
        ("Pause", pb.PauseRequest(mode="wait"), Pause(mode="wait")),
        ("Resume", pb.ResumeRequest(), Resume()),
        ("Sleep", pb.SleepRequest(), Sleep(level=1, keeps="host")),
        ("Sleep", pb.SleepRequest(level=2, keeps="drop"), Sleep(level=2, keeps="drop")),
        ("Sleep", pb.SleepRequest(mode="wait"), Sleep(level=1, mode="wait")),
        ("Wake", pb.WakeRequest(), Wake()),
        ("GetServing", pb.GetServingRequest(), AskServing()),
        ("NameWeights", pb.NameWeightsRequest(version="v"), NameWeights(version="v")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_is_a_command_and_its_answer_the_state_since(
    root: Path, method: str, request_: Message, asked: object
) -> None:
    fake = FakeAdministration()
    with operated(fake, root=root) as stub:
        state = getattr(stub, method)(request_, timeout=20).state
    assert fake.asked == [asked]
    after = fake.state
    assert state.is_paused is after.is_paused
    assert state.HasField("is_paused"), "false is an answer"
    assert (state.sleep_level, state.freed_bytes) == (
        after.sleep_level,
        after.freed_bytes,
    )
    assert [
        (each.model, each.version, each.updates, each.nbytes, each.is_dropped)
        for each in state.weights
    ] == [
        (each.model, each.version, each.updates, each.nbytes, each.is_dropped)
        for each in after.weights
    ]


def test_weights_are_updated_from_a_path(root: Path) -> None:
    fake = FakeAdministration()
    with operated(fake, root=root) as stub:
        request = pb.UpdateWeightsRequest(path=str(root / "step-1"))
        updated = stub.UpdateWeights(request, timeout=20)
        assert (updated.model, updated.version, updated.nbytes) == (
            "letters",
            "1",
            1000,
        )
        assert (updated.restarted, updated.aborted) == (0, 0)
        assert fake.is_streamed is False
        request = pb.UpdateWeightsRequest(
            path=str(root / "step-1"),
            version="s2",
            open_requests="restart",
            model="digits",
            streamed=True,
        )
        updated = stub.UpdateWeights(request, timeout=20)
        assert (updated.model, updated.version, updated.restarted) == (
            "digits",
            "s2",
            3,
        )
        assert fake.is_streamed is True


def test_pages_are_forgotten_and_requests_ended(root: Path) -> None:
    fake = FakeAdministration()
    with operated(fake, root=root) as stub:
        assert stub.ResetPrefixCache(pb.ResetPrefixCacheRequest()).pages == 7
        some = stub.AbortRequests(pb.AbortRequestsRequest(request_ids=["a", "b"]))
        assert not some.HasField("aborted"), "nobody counts them"
        assert fake.aborted == ["a", "b"]
        assert stub.AbortRequests(pb.AbortRequestsRequest(all=True)).aborted == 5
        assert fake.asked == [ResetPrefixCache(), AbortOpen()]


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [
        ("Pause", pb.PauseRequest(mode="stop"), BAD, "mode must be one of"),
        ("Sleep", pb.SleepRequest(level=0), BAD, "level must be one of 1, 2, got 0"),
        ("Sleep", pb.SleepRequest(keeps="disk"), BAD, "keeps must be one of"),
        ("Sleep", pb.SleepRequest(mode="retract"), BAD, "mode must be one of"),
        ("NameWeights", pb.NameWeightsRequest(), BAD, "version must be set"),
        ("NameWeights", pb.NameWeightsRequest(version=""), BAD, "version must be 1 to"),
        ("UpdateWeights", pb.UpdateWeightsRequest(), BAD, "path must be set"),
        ("UpdateWeights", pb.UpdateWeightsRequest(path="/etc"), BAD, "must lie in"),
        (
            "UpdateWeights",
            pb.UpdateWeightsRequest(path="ROOT/bad"),
            BAD,
            "path cannot be used",
        ),
        (
            "UpdateWeights",
            pb.UpdateWeightsRequest(path="ROOT/step-1", open_requests="drop"),
            BAD,
            "open_requests must be one of",
        ),
        (
            "UpdateWeights",
            pb.UpdateWeightsRequest(path="ROOT/step-1", model="ghost"),
            grpc.StatusCode.NOT_FOUND,
            "no model 'ghost'",
        ),
        (
            "UpdateWeights",
            pb.UpdateWeightsRequest(path="ROOT/broken"),
            grpc.StatusCode.INTERNAL,
            "inside the server",
        ),
        (
            "ResetPrefixCache",
            pb.ResetPrefixCacheRequest(model="ghost"),
            grpc.StatusCode.NOT_FOUND,
            "no model 'ghost'",
        ),
        ("AbortRequests", pb.AbortRequestsRequest(), BAD, "request_ids or all"),
        (
            "AbortRequests",
            pb.AbortRequestsRequest(request_ids=["a"], all=True),
            BAD,
            "one of the two",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_refusal_has_its_status(
    root: Path, method: str, request_: Any, code: grpc.StatusCode, words: str
) -> None:
    fake = FakeAdministration()
    with operated(fake, root=root) as stub:
        if method == "UpdateWeights" and request_.path.startswith("ROOT"):
            request_.path = request_.path.replace("ROOT", str(root))
        with pytest.raises(grpc.RpcError) as caught:
            getattr(stub, method)(request_, timeout=20)
        assert caught.value.code() == code
        assert words in caught.value.details()
        assert fake.state.weights == FakeAdministration().state.weights


def test_a_wake_without_weights_is_refused(root: Path) -> None:
    with operated(FakeAdministration(), root=root) as stub:
        stub.Sleep(pb.SleepRequest(level=2, keeps="drop"))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Wake(pb.WakeRequest(), timeout=20)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_an_update_whose_caller_has_gone_before_its_turn_is_not_made(
    root: Path,
) -> None:
    fake = FakeAdministration()
    fake.may_load.clear()
    request = pb.UpdateWeightsRequest(path=str(root / "step-1"))
    with operated(fake, root=root) as stub, ThreadPoolExecutor(1) as pool:
        first = pool.submit(stub.UpdateWeights, request, timeout=20)
        while not fake.loads:
            stub.GetServing(pb.GetServingRequest(), timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.UpdateWeights(request, timeout=0.2)
        fake.may_load.set()
        assert first.result().version == "1"
        assert stub.UpdateWeights(request, timeout=20).version == "2"
    assert len(fake.loads) == 2


def test_every_request_of_the_service_can_be_read() -> None:
    service = pb.DESCRIPTOR.services_by_name["Admin"]
    filled = {"path": "/a", "version": "v", "policy": "mell", "all": True}
    for method in service.methods:
        kind = getattr(pb, method.input_type.name)
        request = kind()
        for field in method.input_type.fields:
            if field.name in filled:
                setattr(request, field.name, filled[field.name])
            elif field.name in ("device", "request"):
                setattr(request, field.name, 0)
        assert asked_of(request) is not None


def test_the_door_closes_while_an_update_loads(root: Path) -> None:
    fake = FakeAdministration()
    fake.may_load.clear()
    request = pb.UpdateWeightsRequest(path=str(root / "step-1"))
    with ThreadPoolExecutor(1) as pool:
        with operated(fake, root=root) as stub:
            asked = pool.submit(stub.UpdateWeights, request)
            while not fake.loads:
                stub.GetServing(pb.GetServingRequest(), timeout=20)
        assert isinstance(asked.exception(20), grpc.RpcError)
        fake.may_load.set()
