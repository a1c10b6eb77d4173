import asyncio
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from mell_jax.serving.aborts import Aborts
from mell_jax.serving.address import BindError, check_addresses
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.server import Server, run_server
from mell_jax.serving.vllm.tokenizer_archive import unpack
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import Harness, error_of, ids_request, run, serving
from tests.serving.test_refusals import retry_s_of

SERVICE = "vllm.grpc.engine.VllmEngine"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LETTERS = ServedModel(name="letters", path="")


async def health_of(s: Harness) -> int:
    stub = health_pb2_grpc.HealthStub(s.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    return int(answer.status)


def test_it_is_healthy_once_it_serves() -> None:
    async def scenario() -> None:
        async with serving() as s:
            assert await health_of(s) == SERVING
            assert (await s.stub.HealthCheck(pb.HealthCheckRequest())).healthy

    run(scenario)


def test_it_tells_what_it_speaks() -> None:
    async def scenario() -> None:
        async with serving() as s:
            stub = reflection_pb2_grpc.ServerReflectionStub(s.channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                names = [x.name for x in answer.list_services_response.service]
                assert SERVICE in names
                assert "grpc.health.v1.Health" in names

    run(scenario)


def test_it_does_not_tell_what_it_speaks_if_it_should_not() -> None:
    async def scenario() -> None:
        async with serving(is_reflection_on=False) as s:
            stub = reflection_pb2_grpc.ServerReflectionStub(s.channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            call = stub.ServerReflectionInfo(iter([request]))
            error = await error_of(call.read())
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED

    run(scenario)


def test_old_connections_are_replaced_and_their_streams_go_on() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True, max_connection_age_s=1.0) as s:
            state = s.channel.get_state
            call = s.stub.Generate(ids_request(1, max_tokens=2))
            first = asyncio.ensure_future(call.read())
            await s.until(lambda: len(s.engine.submits) == 1)
            while state() is grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.05)  # told to go away, but not this stream
            s.engine.step()
            assert list((await first).chunk.token_ids) == [1]
            s.engine.step()
            assert list((await call.read()).chunk.token_ids) == [2]
            answer = asyncio.ensure_future(s.collect(ids_request(2, max_tokens=1)))
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            assert list((await answer)[-1].complete.output_ids) == [2]

    run(scenario)


def test_it_describes_the_model(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            info = await s.stub.GetModelInfo(pb.GetModelInfoRequest())
            assert info == pb.GetModelInfoResponse(
                model_path="/models/letters",
                is_generation=True,
                max_context_length=1000,
                vocab_size=31,
                served_model_name="letters",
                tokenizer_path=str(letters_dir),
                model_type="llama",
                architectures=["LlamaForCausalLM"],
                eos_token_ids=[0],
                max_req_input_len=999,
            )

    run(scenario)


def test_it_describes_itself() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            call = s.stub.Generate(ids_request(1))
            await s.until(lambda: len(s.engine.submits) == 1)
            info = await s.stub.GetServerInfo(pb.GetServerInfoRequest())
            assert info.active_requests == 1
            assert info.server_type == "vllm-grpc"
            assert info.data_parallel_size == 1
            assert info.block_size == 16
            assert info.max_num_seqs == 256
            assert info.uptime_seconds > 0
            assert info.last_receive_timestamp > 1.6e9
            call.cancel()

    run(scenario)


def test_it_tells_its_load() -> None:
    async def scenario() -> None:
        async with serving() as s:
            answer = await s.stub.GetLoads(pb.GetLoadsRequest())
            assert answer.dp_rank_count == 1
            (load,) = answer.loads
            assert load == pb.SchedulerLoad(
                num_waiting_reqs=2,
                num_total_reqs=2,
                num_used_tokens=480,
                max_total_num_tokens=1600,
                token_usage=0.3,
                cache_hit_rate=0.25,
                max_running_requests=256,
                num_waiting_uncached_tokens=11,
            )
            other = await s.stub.GetLoads(pb.GetLoadsRequest(dp_rank=1))
            assert list(other.loads) == []

    run(scenario)


def test_the_tokenizer_can_be_fetched(letters_dir: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            call = s.stub.GetTokenizer(common_pb2.GetTokenizerRequest())
            unpack([chunk async for chunk in call], directory=tmp_path)
            assert load_tokenizer(tmp_path).encode("abz") == [1, 2, 26]

    run(scenario)


@pytest.mark.parametrize("is_checked_early", [True, False])
def test_a_port_in_use_is_refused(is_checked_early: bool) -> None:
    async def scenario() -> None:
        async with serving() as s:
            port = int(s.address.rpartition(":")[2])
            config = ServerConfig(port=port)
            second = Server(FakeEngine(), models=[LETTERS], config=config)
            rule = rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"
            with pytest.raises(BindError, match=rule):
                if is_checked_early:
                    check_addresses(config)
                else:
                    await second.start()

    run(scenario)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BindError, match=r"cannot listen on 192\.0\.2\.1:0"):
        check_addresses(ServerConfig(host="192.0.2.1", port=0))


@pytest.mark.parametrize(
    "bad",
    [
        {"port": -1},
        {"port": 65536},
        {"drain_s": -1.0},
        {"grace_s": float("nan")},
        {"max_connection_age_s": 0.5},
        {"drain_s": float("nan")},
        {"max_open": 0},
        {"http_port": 65536},
        {"http_port": 50051},
        {"frontends": -1},
        {"health_port": 65536},
        {"stall_s": float("nan")},
    ],
)
def test_a_bad_config_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        ServerConfig(**bad)


def test_a_dead_engine_ends_streams_with_what_was_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            call = s.stub.Generate(ids_request(1))
            first = asyncio.ensure_future(call.read())
            waiting = asyncio.ensure_future(s.collect(ids_request(2)))
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.aborts.clear()
            s.engine.step()
            await first
            s.engine.step()
            assert list((await call.read()).chunk.token_ids) == [2]
            s.engine.die("the device is lost")
            error = await error_of(call.read())
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert error.details() == "the engine failed; 2 tokens had been sent"
            assert "the device is lost" in caplog.text
            assert retry_s_of(error) is None
            assert (await error_of(waiting)).code() == grpc.StatusCode.UNAVAILABLE
            late = await error_of(s.collect(ids_request(1)))
            assert late.code() == grpc.StatusCode.UNAVAILABLE
            assert retry_s_of(late) == 1.0
            answer = await s.stub.HealthCheck(pb.HealthCheckRequest())
            assert (answer.healthy, answer.message) == (False, "the engine failed")

    run(scenario)


def test_a_drain_finishes_what_is_open_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            health = health_pb2_grpc.HealthStub(s.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING
            answer = asyncio.ensure_future(s.collect(ids_request(1, max_tokens=3)))
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            drained = asyncio.ensure_future(s.server.drain(hurry=asyncio.Event()))
            assert (await watch.read()).status == NOT_SERVING
            error = await error_of(s.collect(ids_request(1)))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in (error.details() or "")
            assert retry_s_of(error) == 1.0
            assert not (await s.stub.HealthCheck(pb.HealthCheckRequest())).healthy
            assert not drained.done()
            s.engine.step()
            s.engine.step()
            complete = (await answer)[-1].complete
            assert list(complete.output_ids) == [1, 2, 4]
            watch.cancel()
            await drained

    run(scenario)


def test_in_its_grace_a_server_says_it_ends_and_still_takes_requests() -> None:
    async def scenario() -> None:
        async with serving(grace_s=1000.0, http_port=0) as s:
            health = health_pb2_grpc.HealthStub(s.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING
            hurry = asyncio.Event()
            drained = asyncio.ensure_future(s.server.drain(hurry=hurry))
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            assert not (await s.stub.HealthCheck(pb.HealthCheckRequest())).healthy
            async with httpx2.AsyncClient() as client:
                told = await client.get(f"http://{s.http}/health")
            assert (told.status_code, told.text) == (503, "shutting down\n")
            complete = (await s.collect(ids_request(1, max_tokens=3)))[-1].complete
            assert list(complete.output_ids) == [1, 2, 4]
            assert not drained.done()
            hurry.set()
            await drained
            error = await error_of(s.collect(ids_request(1)))
            assert error.code() == grpc.StatusCode.UNAVAILABLE

    run(scenario)


@pytest.mark.parametrize("is_hurried", [False, True])
def test_a_drain_that_lasts_too_long_ends_the_rest(is_hurried: bool) -> None:
    async def scenario() -> None:
        drain_s = 60.0 if is_hurried else 0.0
        async with serving(is_manual=True, drain_s=drain_s) as s:
            call = s.stub.Generate(ids_request(1))
            first = asyncio.ensure_future(call.read())
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            await first
            hurry = asyncio.Event()
            drained = asyncio.ensure_future(s.server.drain(hurry=hurry))
            if is_hurried:
                hurry.set()
            error = await error_of(call.read())
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert error.details() == (
                "the server is shutting down; 1 tokens had been sent"
            )
            await drained
            assert len(s.engine.aborts) == 1

    run(scenario)


def test_a_dead_engine_ends_the_server() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        ready: list[str] = []
        running = asyncio.create_task(
            run_server(
                engine,
                models=[LETTERS],
                config=ServerConfig(port=0),
                on_ready=lambda at: (ready.append(at.grpc), engine.die("oh"))[0],
            )
        )
        assert await running == "the engine failed"
        async with grpc.aio.insecure_channel(ready[0]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            error = await error_of(health.Check(health_pb2.HealthCheckRequest()))
            assert error.code() == grpc.StatusCode.UNAVAILABLE

    run(scenario)


def test_an_operators_order_ends_requests_of_a_front_end_in_this_process() -> None:
    async def scenario() -> None:
        engine, aborts = FakeEngine(is_manual=True), Aborts()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        aborts.order(["early"])  # nobody hears it
        running = asyncio.create_task(
            run_server(
                engine,
                models=[LETTERS],
                config=ServerConfig(port=0),
                on_ready=lambda at: ready.set_result(at.grpc),
                aborts=aborts,
            )
        )
        async with grpc.aio.insecure_channel(await ready) as channel:
            calls = [
                pb_grpc.VllmEngineStub(channel).Generate(
                    ids_request(1, request_id=name, max_tokens=9)
                )
                for name in "ab"
            ]
            await asyncio.to_thread(
                engine.wait_until, lambda: len(engine.submits) == len(calls)
            )
            await asyncio.to_thread(engine.step)
            assert [(await call.read()).chunk.token_ids for call in calls] == [[1], [1]]
            await asyncio.to_thread(aborts.order, ["b", "c"])
            await asyncio.to_thread(engine.wait_until, lambda: engine.aborts != [])
            await asyncio.to_thread(engine.step)
            while not (ended := await calls[1].read()).HasField("complete"):
                assert list(ended.chunk.token_ids) == []
            assert ended.complete.finish_reason == "abort"
            assert (await calls[0].read()).chunk.token_ids == [2]
            engine.die("")
            await running
        aborts.order(["late"])

    run(scenario)


def test_an_engine_is_stopped_when_its_server_cannot_start() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        with pytest.raises(BindError):
            await run_server(
                engine,
                models=[LETTERS],
                config=ServerConfig(host="192.0.2.1"),
                on_ready=lambda *addresses: None,
            )
        assert not engine.is_alive

    run(scenario)
