"""Processes that die, hang, are told to end: each line of the life of a server."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.engine.frames import FinishReason
from mell_jax.serving.processes.front_end_pool import FrontEndLimits
from tests.serving.fake_engine import FakeEngine
from tests.serving.fake_server import fake_server
from tests.serving.harness import ids_request
from tests.serving.processes.stage import (
    Stage,
    end_of,
    is_healthy,
    perform,
    read_tokens,
)
from tests.serving.running import wait_replaced

SERVICE = "vllm.grpc.engine.VllmEngine"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
STREAMS = 64


def watch(channel: grpc.Channel) -> grpc.Call:
    """Tells every change of what health says."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    return health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)


def test_a_front_end_serves_from_a_process_without_jax() -> None:
    def script(stage: Stage) -> None:
        assert stage.ask(max_tokens=6) == [1, 2, 4, 8, 16, 1]
        (front,) = stage.fronts()
        maps = Path(f"/proc/{front.pid}/maps").read_text()
        assert "grpc" in maps
        assert "jaxlib" not in maps

    assert perform(script, engine=FakeEngine()) == ""


def test_a_front_end_that_is_killed_loses_its_requests_and_is_replaced() -> None:
    def script(stage: Stage) -> None:
        assert stage.addresses.health is not None
        health = grpc.insecure_channel(stage.addresses.health)
        told = watch(health)
        assert next(told).status == SERVING
        calls = stage.open(STREAMS, ignore_eos=True)
        stage.engine.step()
        for call in calls:
            assert read_tokens(call, count=1) == [1]
        (front,) = stage.fronts()
        front.kill()
        assert next(told).status == NOT_SERVING
        stage.engine.wait_until(lambda: len(stage.engine.aborts) == STREAMS)
        assert {end_of(call).code() for call in calls} == {UNAVAILABLE}
        stage.engine.step()
        assert stage.engine.num_live == 0
        assert next(told).status == SERVING
        health.close()
        wait_replaced(stage.stub)
        again = stage.stub.Generate(ids_request(1, max_tokens=1))
        stage.engine.wait_until(lambda: len(stage.engine.submits) == STREAMS + 1)
        stage.engine.step()
        assert read_tokens(again, count=1) == [1]
        assert stage.fronts() != [front]

    engine = FakeEngine(is_manual=True)
    assert perform(script, engine=engine, has_health_port=True) == ""


def test_a_front_end_that_is_killed_harms_no_other_one() -> None:
    def script(stage: Stage) -> None:
        calls: dict[int, list[grpc.Call]] = {}  # by front end
        channels = []
        while len(calls) < 2:  # until each front end has one
            channel = grpc.insecure_channel(
                stage.addresses.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            channels.append(channel)
            call = pb_grpc.VllmEngineStub(channel).Generate(
                ids_request(1, max_tokens=3)
            )
            count = len(channels)
            stage.engine.wait_until(lambda n=count: len(stage.engine.submits) == n)
            number = stage.engine.submits[-1].handle >> 40
            calls.setdefault(number, []).append(call)
        stage.engine.step()
        for call in (*calls[1], *calls[2]):
            assert read_tokens(call, count=1) == [1]
        min(stage.fronts(), key=lambda p: p.pid).kill()
        stage.engine.wait_until(lambda: len(stage.engine.aborts) >= 1)
        stage.engine.step()
        stage.engine.step()
        lost = stage.engine.aborts[0] >> 40
        assert {end_of(call).code() for call in calls[lost]} == {UNAVAILABLE}
        for call in calls[3 - lost]:
            assert [t for part in call for t in part.chunk.token_ids] == [2, 4]
        for channel in channels:
            channel.close()

    assert perform(script, engine=FakeEngine(is_manual=True), frontends=2) == ""


def test_an_abort_is_passed_to_the_front_end_that_has_the_request() -> None:
    def script(stage: Stage) -> None:
        (call,) = stage.open(request_id="here", ignore_eos=True)
        for _ in range(20):  # one of these reaches the other front end
            with grpc.insecure_channel(
                stage.addresses.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                stub = pb_grpc.VllmEngineStub(channel)
                stub.Abort(pb.AbortRequest(request_ids=["here", "nowhere"]))
        stage.engine.wait_until(lambda: len(stage.engine.aborts) == 1)
        stage.engine.step()
        *_, last = call
        assert last.complete.finish_reason == "abort"

    assert perform(script, engine=FakeEngine(is_manual=True), frontends=2) == ""


@pytest.mark.parametrize("frontends", [1, 2])
def test_a_failed_engine_ends_streams_with_what_was_sent(
    frontends: int, caplog: pytest.LogCaptureFixture
) -> None:
    def script(stage: Stage) -> None:
        told = watch(stage.channel)
        assert next(told).status == SERVING
        calls = stage.open(STREAMS, ignore_eos=True)
        for _ in range(3):
            stage.engine.step()
        for call in calls:
            assert read_tokens(call, count=3) == [1, 2, 4]
        stage.engine.die("the device is lost")
        for call in calls:
            error = end_of(call)
            assert error.code() == UNAVAILABLE
            assert error.details() == "the engine failed; 3 tokens had been sent"
        assert next(told).status == NOT_SERVING

    engine = FakeEngine(is_manual=True)
    assert perform(script, engine=engine, frontends=frontends) == "the engine failed"
    assert "the device is lost" in caplog.text


def test_a_killed_engine_process_ends_streams_and_leaves_no_orphan(
    letters_dir: Path,
) -> None:
    with (
        fake_server(letters_dir, frontends=2, context=10**7) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        fronts = psutil.Process(server.process.pid).children()
        assert len(fronts) == 2
        stub = pb_grpc.VllmEngineStub(channel)
        request = ids_request(1, ignore_eos=True)
        calls = [stub.Generate(request) for _ in range(STREAMS)]
        for call in calls:
            read_tokens(call, count=1)
        told = watch(channel)
        assert next(told).status == SERVING
        server.process.send_signal(signal.SIGKILL)
        assert next(told).status == NOT_SERVING
        words = r"the engine's process has ended; [1-9]\d* tokens had been sent"
        for call in calls:
            error = end_of(call)
            assert error.code() == UNAVAILABLE
            assert re.fullmatch(words, error.details() or ""), error.details()
        gone, alive = psutil.wait_procs(fronts, timeout=30)
        assert (len(gone), alive) == (2, [])


def test_a_front_end_that_does_not_read_never_blocks_a_step() -> None:
    def script(stage: Stage) -> None:
        calls = stage.open(64, ignore_eos=True)  # few would end before it is given up
        (front,) = stage.fronts()
        front.suspend()
        while not stage.engine.aborts:  # blocks for ever if a step waits
            ended = {finished.reason for finished in stage.engine.step().finished}
            assert ended <= {FinishReason.ABORT}, "sockets take whole answers"
        assert len(stage.engine.aborts) == 64
        assert {end_of(call).code() for call in calls} == {UNAVAILABLE}
        wait_replaced(stage.stub)
        refused = end_of(stage.stub.Generate(ids_request(1, max_tokens=0)))
        assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert stage.fronts() != [front]

    limits = FrontEndLimits(max_unread_bytes=10_000)
    assert perform(script, engine=FakeEngine(is_manual=True), limits=limits) == ""


def test_a_front_end_that_does_not_answer_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(stage: Stage) -> None:
        (front,) = stage.fronts()
        front.suspend()
        front.wait(timeout=30)
        assert stage.ask(max_tokens=2) == [1, 2]

    limits = FrontEndLimits(max_unanswered=2)
    assert perform(script, engine=FakeEngine(), limits=limits) == ""
    assert "front end 1 is gone: it does not answer" in caplog.text


def test_front_ends_that_die_again_and_again_end_the_server() -> None:
    def script(stage: Stage) -> None:
        (first,) = stage.fronts()
        first.kill()
        first.wait(timeout=30)
        assert stage.ask(max_tokens=1) == [1]
        (second,) = stage.fronts()
        second.kill()
        assert stage.over.wait(timeout=30)

    cause = perform(script, engine=FakeEngine(), limits=FrontEndLimits(max_deaths=1))
    assert cause == "front ends ended 2 times in a row, the last one since it has ended"


def test_a_front_end_that_cannot_start_is_one_clear_line(tmp_path: Path) -> None:
    engine = FakeEngine()
    cause = perform(lambda stage: None, engine=engine, tokenizer_dir=tmp_path)
    assert cause.startswith("a front end did not start: ")
    assert str(tmp_path) in cause


def test_a_signal_drains_every_front_end() -> None:
    def script(stage: Stage) -> None:
        told = watch(stage.channel)
        assert next(told).status == SERVING
        (call,) = stage.open(max_tokens=3)
        stage.engine.step()
        os.kill(os.getpid(), signal.SIGTERM)
        assert next(told).status == NOT_SERVING
        assert end_of(stage.stub.Generate(ids_request(1))).code() == UNAVAILABLE
        stage.engine.step()
        stage.engine.step()
        assert [t for part in call for t in part.chunk.token_ids] == [1, 2, 4]
        told.cancel()

    assert perform(script, engine=FakeEngine(is_manual=True)) == ""


def test_a_second_signal_ends_the_waiting() -> None:
    def script(stage: Stage) -> None:
        told = watch(stage.channel)
        assert next(told).status == SERVING
        (call,) = stage.open(ignore_eos=True)
        stage.engine.step()
        assert read_tokens(call, count=1) == [1]
        os.kill(os.getpid(), signal.SIGTERM)
        assert next(told).status == NOT_SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        error = end_of(call)
        assert error.code() == UNAVAILABLE
        assert error.details() == "the server is shutting down; 1 tokens had been sent"

    engine = FakeEngine(is_manual=True)
    assert perform(script, engine=engine, drain_s=1000.0) == ""


@contextmanager
def turning(engine: FakeEngine) -> Iterator[None]:
    """A manual engine goes round, on a thread."""
    is_over = threading.Event()

    def turn() -> None:
        while not is_over.wait(0.01):
            engine.step()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(turn)
        try:
            yield
        finally:
            is_over.set()


def test_health_tells_whether_the_engine_goes_round() -> None:
    def script(stage: Stage) -> None:
        assert stage.addresses.health is not None
        with grpc.insecure_channel(stage.addresses.health) as channel:
            with turning(stage.engine):
                both = watch(channel), watch(stage.channel)
                for told in both:
                    while next(told).status != SERVING:
                        pass  # it had not begun, or stood still before it turned
            for told in both:
                assert next(told).status == NOT_SERVING
            assert not is_healthy(stage.stub)
            with turning(stage.engine):
                for told in both:
                    assert next(told).status == SERVING
                assert is_healthy(stage.stub)
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING

    engine = FakeEngine(is_manual=True)
    assert perform(script, engine=engine, stall_s=1.0, has_health_port=True) == ""


def test_no_thread_of_a_link_is_left() -> None:
    seen = threading.active_count()

    def script(stage: Stage) -> None:
        assert stage.ask(max_tokens=1) == [1]

    assert perform(script, engine=FakeEngine()) == ""
    assert threading.active_count() <= seen + 1  # links leave no thread behind
