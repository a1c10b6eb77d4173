"""What is so of a server as a whole, whichever of its front ends is asked."""

import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto.generated.vllm_engine_pb2_grpc import VllmEngineStub

from mell_jax.frontend import AdmissionLimits
from mell_jax.serving.proto import open_inference_pb2 as kserve
from mell_jax.serving.proto import open_inference_pb2_grpc as kserve_grpc
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request
from tests.serving.processes.stage import Stage, end_of, perform, read_tokens
from tests.serving.running import wait_replaced

MODEL = "letters"
PATIENCE_S = 50.0  # for an answer that does not come


def ask_until(condition: Callable[[], bool]) -> None:
    """Asks again and again: what one front end tells the others is on its way."""
    end_s = time.monotonic() + 50.0
    while not condition():
        assert time.monotonic() < end_s, "asked for 50 s"


def values(connection: HTTPConnection) -> dict[str, float]:
    """Metrics by name and labels, as Prometheus would read them."""
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200, text
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def tokens(connection: HTTPConnection) -> float:
    return values(connection)[f"mell:generation_tokens_total,{MODEL}"]


def test_metrics_are_the_server_s_whoever_answers() -> None:
    def script(stage: Stage) -> None:
        with stage.each() as stubs, stage.each_http() as doors:
            before = len(stage.engine.submits)  # a token each
            for stub in (*stubs.values(), stubs[2]):
                parts = list(
                    stub.Generate(ids_request(1, 1, max_tokens=5), timeout=PATIENCE_S)
                )
                assert parts[-1].complete.completion_tokens == 5
            total = before + 15
            for door in doors.values():
                ask_until(lambda door=door: tokens(door) == total)
            first, second = map(values, doors.values())
            for name, value in first.items():
                if name.startswith("mell:"):
                    assert second[name] == value, name
            done = before + 3
            assert first[f"mell:time_to_first_token_seconds_count,{MODEL}"] == done
            assert first[f"mell:request_success_total,length,{MODEL}"] == done
            assert first[f"mell:prompt_tokens_total,{MODEL}"] == before + 6
            start = "process_start_time_seconds"
            assert first[start] == second[start]  # of the engine's process

    assert perform(script, engine=FakeEngine(), frontends=2, http_port=0) == ""


def test_what_the_engine_counts_never_falls_from_one_answer_to_the_next() -> None:
    def script(stage: Stage) -> None:
        with stage.each(), stage.each_http() as doors:
            steps = 0.0
            for _ in range(10):  # in less time than between two pulses
                assert stage.ask(max_tokens=4) == [1, 2, 4, 8]  # of one front end
                for door in doors.values():
                    assert values(door)["mell:steps_total"] >= steps
                    steps = values(door)["mell:steps_total"]
            assert steps == stage.engine.num_steps

    assert perform(script, engine=FakeEngine(), frontends=2, http_port=0) == ""


def test_kserve_s_statistics_are_the_server_s_too() -> None:
    def count(address: str) -> int:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            stub = kserve_grpc.GRPCInferenceServiceStub(channel)
            request = kserve.ModelStatisticsRequest(name=MODEL)
            (stats,) = stub.ModelStatistics(request).model_stats
            return int(stats.inference_count)

    def script(stage: Stage) -> None:
        with stage.each():
            total = len(stage.engine.submits)
        for _ in range(20):  # some reach the one and some the other front end
            ask_until(lambda: count(stage.addresses.grpc) == total)

    assert perform(script, engine=FakeEngine(), frontends=2) == ""


def test_what_was_told_never_falls_when_a_front_end_dies() -> None:
    def script(stage: Stage) -> None:
        for _ in range(3):
            assert stage.ask(max_tokens=4) == [1, 2, 4, 8]
        with stage.each_http() as doors:
            (door,) = doors.values()
            before = values(door)
        assert before[f"mell:generation_tokens_total,{MODEL}"] == 12
        (front,) = stage.fronts()
        front.kill()
        front.wait(timeout=30)
        wait_replaced(stage.stub)
        with stage.each_http() as doors:
            (door,) = doors.values()
            after = values(door)
            for name, value in before.items():
                if name.startswith("mell:") and name.endswith(("total", MODEL)):
                    assert after[name] >= value, name
            assert after[f"mell:generation_tokens_total,{MODEL}"] == 12
            assert stage.ask(max_tokens=4) == [1, 2, 4, 8]
            ask_until(lambda: tokens(door) == 16)

    assert perform(script, engine=FakeEngine(), http_port=0) == ""


def test_one_that_dies_takes_nothing_with_it() -> None:
    def script(stage: Stage) -> None:
        with stage.each():
            total = len(stage.engine.submits)
        with stage.each_http() as doors:
            for door in doors.values():
                ask_until(lambda door=door: tokens(door) == total)
            (lost, _), (_, door) = doors.items()
            psutil.Process(lost).kill()
            assert tokens(door) == total
            ask_until(lambda: len({p.pid for p in stage.fronts()} - {lost}) == 2)
        with stage.each_http() as doors:
            assert lost not in doors
            assert [tokens(door) for door in doors.values()] == [total, total]

    assert perform(script, engine=FakeEngine(), frontends=2, http_port=0) == ""


def open_at(stub: VllmEngineStub) -> int:
    """Requests that a front end knows to be open, at others too."""
    return int(stub.GetServerInfo(pb.GetServerInfoRequest()).active_requests)


def wait_heard(stubs: Mapping[int, VllmEngineStub], *, count: int) -> None:
    """Until both front ends know that so many requests are open."""
    for stub in stubs.values():
        ask_until(lambda stub=stub: open_at(stub) == count)


def refusal(call: grpc.Call) -> tuple[str, str]:
    error = end_of(call)
    return error.code().name, error.details() or ""


def test_what_may_wait_is_counted_at_all_front_ends() -> None:
    def script(stage: Stage) -> None:
        with stage.each() as stubs:
            wait_heard(stubs, count=0)
            before = len(stage.engine.submits)
            calls = [
                stubs[1].Generate(ids_request(1, n=3, max_tokens=1), timeout=PATIENCE_S)
            ]
            wait_heard(stubs, count=1)
            assert refusal(
                stubs[2].Generate(ids_request(1, n=2), timeout=PATIENCE_S)
            ) == (
                "RESOURCE_EXHAUSTED",
                "3 samples wait and 2 more would exceed the 4 that this server lets "
                "wait",
            )
            calls += [
                stubs[2].Generate(ids_request(1, max_tokens=1), timeout=PATIENCE_S)
            ]
            wait_heard(stubs, count=2)
            for stub in stubs.values():
                code, words = refusal(stub.Generate(ids_request(1), timeout=PATIENCE_S))
                assert (code, words[:14]) == ("RESOURCE_EXHAUSTED", "4 samples wait")
                code, words = refusal(
                    stub.Generate(ids_request(1, n=5), timeout=PATIENCE_S)
                )
                assert (code, words[:6]) == ("INVALID_ARGUMENT", "n asks")
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 4)
            stage.engine.step()
            assert [len(list(call)) for call in calls] == [6, 2]  # two per sample
            wait_heard(stubs, count=0)
            last = stubs[2].Generate(
                ids_request(1, n=4, max_tokens=1), timeout=PATIENCE_S
            )
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 8)
            stage.engine.step()
            assert len(list(last)) == 8

    engine = FakeEngine(is_manual=True)
    limits = AdmissionLimits(max_queued=4)
    assert perform(script, engine=engine, frontends=2, admission=limits) == ""


def test_a_tenant_has_its_quota_at_all_front_ends_together() -> None:
    def script(stage: Stage) -> None:
        mine, yours = [("x-mell-tenant", "me")], [("x-mell-tenant", "you")]
        request = ids_request(1, n=2, max_tokens=1)
        with stage.each() as stubs:
            wait_heard(stubs, count=0)
            before = len(stage.engine.submits)
            calls = [stubs[2].Generate(request, metadata=mine, timeout=PATIENCE_S)]
            wait_heard(stubs, count=1)
            assert refusal(
                stubs[1].Generate(request, metadata=mine, timeout=PATIENCE_S)
            ) == (
                "RESOURCE_EXHAUSTED",
                "this tenant has 2 samples open and 2 more would exceed its 3",
            )
            calls += [stubs[1].Generate(request, metadata=yours, timeout=PATIENCE_S)]
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 4)
            stage.engine.step()
            assert [len(list(call)) for call in calls] == [4, 4]

    engine = FakeEngine(is_manual=True)
    limits = AdmissionLimits(max_tenant_open=3)
    assert perform(script, engine=engine, frontends=2, admission=limits) == ""


def test_open_requests_are_bounded_and_the_dead_have_none() -> None:
    def script(stage: Stage) -> None:
        request = ids_request(1, ignore_eos=True)
        with stage.each() as stubs:
            wait_heard(stubs, count=0)
            before = len(stage.engine.submits)
            lost = stubs[1].Generate(request, timeout=PATIENCE_S)
            wait_heard(stubs, count=1)
            kept = stubs[2].Generate(request, timeout=PATIENCE_S)
            wait_heard(stubs, count=2)
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 2)
            for stub in stubs.values():
                assert refusal(stub.Generate(request, timeout=PATIENCE_S)) == (
                    "RESOURCE_EXHAUSTED",
                    "2 requests are open, the most this server keeps",
                )
            min(stage.fronts(), key=lambda front: front.pid).kill()
            assert refusal(lost)[0] == "UNAVAILABLE"
            ask_until(lambda: open_at(stubs[2]) == 1)
            kept.cancel()

    engine = FakeEngine(is_manual=True)
    assert perform(script, engine=engine, frontends=2, max_open=2) == ""


def named(**sampling: object) -> pb.GenerateRequest:
    return ids_request(1, request_id="name", **sampling)


def open_when_free(stage: Stage, stub: VllmEngineStub) -> grpc.Call:
    """A request of that id; while another one has it, it is refused as it should."""
    while True:
        before = len(stage.engine.submits)
        call = stub.Generate(named(ignore_eos=True), timeout=PATIENCE_S)
        ask_until(lambda n=before, c=call: len(stage.engine.submits) > n or c.done())
        if not call.done():
            return call
        assert refusal(call)[0] == "ALREADY_EXISTS"


def test_an_id_in_flight_is_refused_by_every_front_end_until_it_is_free() -> None:
    def script(stage: Stage) -> None:
        taken = "request_id 'name' is in flight; wait for its end or choose another id"
        with stage.each() as stubs:

            def is_taken_by(call: grpc.Call) -> None:
                for stub in stubs.values():
                    assert refusal(stub.Generate(named(), timeout=PATIENCE_S)) == (
                        "ALREADY_EXISTS",
                        taken,
                    )
                assert not call.done()

            before = len(stage.engine.submits)
            call = stubs[1].Generate(named(max_tokens=1), timeout=PATIENCE_S)
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 1)
            is_taken_by(call)
            stage.engine.step()
            assert read_tokens(call, count=1) == [1]
            assert end_of_good(call) == "length"

            call = open_when_free(stage, stubs[2])  # after its end
            is_taken_by(call)
            stubs[1].Abort(pb.AbortRequest(request_ids=["name"]))
            stage.engine.wait_until(lambda: len(stage.engine.aborts) == 1)
            stage.engine.step()
            assert end_of_good(call) == "abort"

            call = open_when_free(stage, stubs[1])  # after an abort
            is_taken_by(call)
            call.cancel()
            stage.engine.wait_until(lambda: len(stage.engine.aborts) == 2)

            call = open_when_free(stage, stubs[1])  # after its reader has gone
            is_taken_by(call)
            min(stage.fronts(), key=lambda front: front.pid).kill()
            assert refusal(call)[0] == "UNAVAILABLE"
            open_when_free(stage, stubs[2]).cancel()  # after its front end has gone

    assert perform(script, engine=FakeEngine(is_manual=True), frontends=2) == ""


def end_of_good(call: grpc.Call) -> str:
    """Why a stream has ended that ends well."""
    *_, last = call
    return str(last.complete.finish_reason)


def test_nobody_needs_an_id_of_its_own() -> None:
    def script(stage: Stage) -> None:
        with stage.each() as stubs:
            before = len(stage.engine.submits)
            calls = [
                stub.Generate(ids_request(1, max_tokens=1), timeout=PATIENCE_S)
                for stub in (*stubs.values(), *stubs.values())
            ]
            stage.engine.wait_until(lambda: len(stage.engine.submits) == before + 4)
            stage.engine.step()
            assert [end_of_good(call) for call in calls] == ["length"] * 4

    assert perform(script, engine=FakeEngine(is_manual=True), frontends=2) == ""
