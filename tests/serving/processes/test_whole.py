"""What is so of a server as a whole, whichever of its front ends is asked."""

from collections.abc import Callable
from http.client import HTTPConnection

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from mell_jax.serving.proto import open_inference_pb2 as kserve
from mell_jax.serving.proto import open_inference_pb2_grpc as kserve_grpc
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request
from tests.serving.processes.stage import Stage, perform
from tests.serving.replaced import wait_replaced

MODEL = "letters"


def ask_until(condition: Callable[[], bool]) -> None:
    """Asks again and again: what one front end tells the others is on its way."""
    for _ in range(5000):
        if condition():
            return
    raise AssertionError("asked 5000 times")


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
                parts = list(stub.Generate(ids_request(1, 1, max_tokens=5)))
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
            ask_until(lambda: len(stage.fronts()) == 2)
        with stage.each_http() as doors:
            assert lost not in doors
            assert [tokens(door) for door in doors.values()] == [total, total]

    assert perform(script, engine=FakeEngine(), frontends=2, http_port=0) == ""
