"""The operator's door on a real socket, before a fleet that serves."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from mell_jax.engine.admin import Answer, Command, Placements, Snapshot
from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread, Steps
from mell_jax.serving.address import BindError
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.port import AdminPort, check_port, serving_admin
from mell_jax.serving.proto import mell_admin_pb2 as pb
from mell_jax.serving.proto import mell_admin_pb2_grpc as rpc
from mell_jax.serving.security.gate import Gate
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit, toy_engine

LONG = SamplingParams(temperature=0.0, max_tokens=100)


def reached(address: str | None) -> grpc.Channel:
    assert address is not None
    return grpc.insecure_channel(address)


@contextlib.contextmanager
def administered(engine: Steps) -> Iterator[tuple[rpc.AdminStub, Transcript]]:
    """An engine that runs, and a client of its operator's door."""
    thread, seen = EngineThread(engine, compilations=CompilationCounter()), Transcript()

    def sink(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, StepFrame):
            seen.read(frame)

    thread.start(sink)
    door = serving_admin(
        Controls(thread.ask), port=0, tokens_file="", is_reflection_on=True
    )
    with door as address, reached(address) as channel:
        yield rpc.AdminStub(channel), seen
        thread.stop()


def code_of(call: Any, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    code = caught.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_a_fleet_is_looked_at_moved_drained_and_told_another_policy() -> None:
    fleet = toy_fleet()
    for handle in range(10):
        submit(fleet, [handle + 1], handle=handle, params=LONG)
    fleet.step()  # all have a place before the thread goes on
    with administered(fleet) as (stub, seen):
        before = stub.Snapshot(pb.SnapshotRequest())
        assert before.policy == "consolidate"
        assert [each.device for each in before.instances] == [0, 1, 2]
        assert before.instances[0].HasField("device"), "0 is a device"
        assert len(before.links) == 6 and before.links[0].bytes_per_s > 0
        assert before.HasField("stats") and before.stats.activations >= 2
        drained = stub.Drain(pb.DrainRequest(device=1))
        while drained.state != pb.DEVICE_STATE_DRAINED:
            drained = stub.Drain(pb.DrainRequest(device=1))
        assert drained.requests_left == 0
        listed = stub.ListPlacements(pb.ListPlacementsRequest(device=1))
        assert listed.total == 0
        state = stub.Undrain(pb.UndrainRequest(device=1)).state
        assert state == pb.DEVICE_STATE_PARKED
        changed = stub.SetPolicy(pb.SetPolicyRequest(policy="mell", look_s=3.0))
        assert (changed.policy, changed.policy_before) == ("mell", "consolidate")
        assert changed.look_s == 3.0
        assert stub.Snapshot(pb.SnapshotRequest()).policy == "mell"
    assert all(
        tokens == expected([handle + 1], count=len(tokens))
        for handle, tokens in seen.tokens.items()
    )


def test_a_request_is_moved_from_outside() -> None:
    fleet = toy_fleet(devices=2, rows=6)
    for handle in range(7):
        submit(fleet, [handle + 1], handle=handle, params=LONG)
    fleet.step()
    with served_by_hand(fleet) as (stub, seen):
        listed = stub.ListPlacements(pb.ListPlacementsRequest(max_results=100))
        assert listed.total == 7
        one = next(p for p in listed.placements if p.device == 0)
        asked = pb.MigrateRequest(request=one.request, device=1)
        moved = stub.Migrate(asked)
        assert (moved.source, moved.target, moved.is_moving) == (0, 1, True)
        moving = stub.Snapshot(pb.SnapshotRequest()).moves
        assert [(m.request, m.source, m.target) for m in moving] == [
            (one.request, 0, 1)
        ]
        assert moving[0].stage != pb.Move.STAGE_UNSPECIFIED
        (listed_now,) = (
            p
            for p in stub.ListPlacements(pb.ListPlacementsRequest()).placements
            if p.request == one.request
        )
        assert (listed_now.device, listed_now.target) == (0, 1)
        assert not one.HasField("target")
        for _ in range(10):
            seen.read(fleet.step())
        stats = stub.Snapshot(pb.SnapshotRequest()).stats
        assert sum(stats.moves_begun.values()) == 1
        (ended,) = stats.moves_ended
        assert (ended.reason, ended.outcome) == ("consolidation", "committed")
        while fleet.has_work:
            seen.read(fleet.step())
    assert seen.tokens == {h: expected([h + 1], count=100) for h in range(7)}


@contextlib.contextmanager
def served_by_hand(engine: Any) -> Iterator[tuple[rpc.AdminStub, Transcript]]:
    """Commands are carried out at once, and steps are made by the test."""

    def ask(command: Command) -> Future[Answer]:
        answer: Future[Answer] = Future()
        answer.set_result(engine.administer(command))
        return answer

    door = serving_admin(Controls(ask), port=0, tokens_file="", is_reflection_on=False)
    with door as address, reached(address) as channel:
        yield rpc.AdminStub(channel), Transcript()


BAD, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOT_NOW = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def fleet_stub() -> Iterator[rpc.AdminStub]:
    """A client of a fleet that nobody changes."""
    with administered(toy_fleet(devices=2)) as (stub, _):
        yield stub


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Migrate", pb.MigrateRequest(), BAD),
        ("Migrate", pb.MigrateRequest(request=0), BAD),
        ("Migrate", pb.MigrateRequest(request=0, device=0), MISSING),
        ("Migrate", pb.MigrateRequest(request=2**62, device=0), MISSING),
        ("Migrate", pb.MigrateRequest(request=0, device=-1), MISSING),
        ("Drain", pb.DrainRequest(), BAD),
        ("Drain", pb.DrainRequest(device=2), MISSING),
        ("Undrain", pb.UndrainRequest(), BAD),
        ("SetPolicy", pb.SetPolicyRequest(), BAD),
        ("SetPolicy", pb.SetPolicyRequest(policy="x" * 60_000), BAD),
        ("SetPolicy", pb.SetPolicyRequest(policy="mell", look_s=-1), BAD),
        ("SetPolicy", pb.SetPolicyRequest(policy="mell", headroom=float("nan")), BAD),
        ("ListPlacements", pb.ListPlacementsRequest(max_results=0), BAD),
        ("ListPlacements", pb.ListPlacementsRequest(max_results=10_001), BAD),
        ("ListPlacements", pb.ListPlacementsRequest(model=""), MISSING),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_refusal_has_its_status(
    fleet_stub: rpc.AdminStub, method: str, request_: Any, code: grpc.StatusCode
) -> None:
    assert code_of(getattr(fleet_stub, method), request_) == code


def test_the_last_device_that_serves_is_not_drained() -> None:
    with administered(toy_fleet(devices=2)) as (stub, _):
        stub.Drain(pb.DrainRequest(device=0))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Drain(pb.DrainRequest(device=1))
        assert caught.value.code() == NOT_NOW
        assert "the last one that serves" in caught.value.details()


def test_a_bad_field_is_named(fleet_stub: rpc.AdminStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        fleet_stub.SetPolicy(pb.SetPolicyRequest(policy="mell", look_s=-1))
    status = rpc_status.from_call(caught.value)
    detail = error_details_pb2.BadRequest()
    assert status is not None and status.details[0].Unpack(detail)
    assert detail.field_violations[0].field == "look_s"


def test_a_fleet_of_one_is_administered_like_any_other() -> None:
    with administered(toy_engine()) as (stub, _):
        seen = stub.Snapshot(pb.SnapshotRequest())
        assert seen.policy == "consolidate"
        assert [each.state for each in seen.instances] == [pb.DEVICE_STATE_PARKED]
        assert stub.SetPolicy(pb.SetPolicyRequest(policy="mell")).policy == "mell"
        drain = pb.DrainRequest(device=0)
        assert code_of(stub.Drain, drain) == grpc.StatusCode.FAILED_PRECONDITION


def test_bytes_that_are_no_message_are_the_callers_mistake() -> None:
    thread = EngineThread(toy_engine(), compilations=CompilationCounter())
    door = serving_admin(
        Controls(thread.ask), port=0, tokens_file="", is_reflection_on=False
    )
    with door as address, reached(address) as channel:
        codes = [
            code_of(channel.unary_unary(f"/mell.v1.Admin/{method}"), data)
            for method, data in (
                ("Drain", b"\xff\xff"),
                ("Drain", b"\0" * 100_000),
                ("Reboot", b""),
            )
        ]
        assert codes == [
            BAD,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNIMPLEMENTED,
        ]


def test_an_engine_that_does_not_answer_is_not_waited_for_and_does_nothing_later() -> (
    None
):
    asked: list[Future[Answer]] = []
    came = threading.Semaphore(0)

    def ask(command: Command) -> Future[Answer]:
        answer: Future[Answer] = Future()
        asked.append(answer)
        came.release()
        return answer

    admin = AdminPort(Controls(ask), gate=Gate(""), is_reflection_on=False)
    with reached(admin.start(0)) as channel:
        stub = rpc.AdminStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Snapshot(pb.SnapshotRequest(), timeout=0.2)
        assert caught.value.code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAVAILABLE,
        )
        assert came.acquire(timeout=20)
        leaving = stub.Snapshot.future(pb.SnapshotRequest())
        assert came.acquire(timeout=20)
        admin.stop()
        assert leaving.exception() is not None
    for each in asked:
        with pytest.raises(CancelledError):
            each.result(20)


def test_health_and_reflection_know_the_service() -> None:
    def ask(command: Command) -> Future[Answer]:
        assert command == Snapshot()
        answer: Future[Answer] = Future()
        answer.set_result(Placements(placements=(), total=0))
        return answer

    for is_on in (True, False):
        door = serving_admin(
            Controls(ask), port=0, tokens_file="", is_reflection_on=is_on
        )
        with door as address, reached(address) as channel:
            asked = health_pb2.HealthCheckRequest(service="mell.v1.Admin")
            answer = health_pb2_grpc.HealthStub(channel).Check(asked)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            tools = reflection_pb2_grpc.ServerReflectionStub(channel)
            wish = reflection_pb2.ServerReflectionRequest(list_services="")
            if not is_on:
                with pytest.raises(grpc.RpcError):
                    list(tools.ServerReflectionInfo(iter([wish])))
                continue
            (listed,) = tools.ServerReflectionInfo(iter([wish]))
            services = listed.list_services_response.service
            assert "mell.v1.Admin" in [service.name for service in services]


def test_a_port_that_is_taken_or_none_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=r"choose another --admin_port$"):
            check_port(port)
    for port in (-1, 65536):
        with pytest.raises(ValueError, match="admin_port must be from 0 to 65535"):
            check_port(port)


def test_only_this_machine_reaches_it() -> None:
    with administered(toy_engine()) as (stub, _):
        stub.Snapshot(pb.SnapshotRequest())
    door = serving_admin(
        Controls(lambda _: Future()), port=0, tokens_file="", is_reflection_on=False
    )
    with door as address:
        assert address is not None and address.startswith("127.0.0.1:")
    door = serving_admin(
        Controls(lambda _: Future()), port=None, tokens_file="", is_reflection_on=False
    )
    with door as address:
        assert address is None


def test_where_tokens_are_needed_an_operators_has_the_right(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    holders = [
        {"token": "operator-0123456789", "tenant": "ops", "rights": ["admin"]},
        {"token": "customer-0123456789", "tenant": "acme"},
    ]
    tokens.write_text(json.dumps({"tokens": holders}))
    thread = EngineThread(toy_engine(), compilations=CompilationCounter())
    thread.start(lambda _: None)
    door = serving_admin(
        Controls(thread.ask), port=0, tokens_file=str(tokens), is_reflection_on=False
    )
    with door as address, reached(address) as channel:
        call = rpc.AdminStub(channel).Snapshot
        codes = {}
        for token in ("", "somebody-0123456789", "customer-0123456789"):
            metadata = [("authorization", f"Bearer {token}")] if token else []
            with pytest.raises(grpc.RpcError) as caught:
                call(pb.SnapshotRequest(), metadata=metadata)
            codes[token] = caught.value.code()
        assert codes == {
            "": grpc.StatusCode.UNAUTHENTICATED,
            "somebody-0123456789": grpc.StatusCode.UNAUTHENTICATED,
            "customer-0123456789": grpc.StatusCode.PERMISSION_DENIED,
        }
        metadata = [("authorization", "Bearer operator-0123456789")]
        assert call(pb.SnapshotRequest(), metadata=metadata).instances
        thread.stop()
