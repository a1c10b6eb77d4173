"""Bounds on what waits, on how long, and on readers that do not read; both doors."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.frontend import AdmissionLimits
from mell_jax.serving.problem import StalledReaderError
from mell_jax.serving.stall import Stalls
from tests.serving.harness import Harness, error_of, ids_request, run, serving
from tests.serving.test_refusals import retry_s_of


async def post(s: Harness, body: Any, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=30) as client:
        return await client.post(
            f"http://{s.http}/v1/completions", json=body, headers=headers
        )


def test_a_full_queue_is_told_through_both_doors(letters_dir: Path) -> None:
    async def scenario() -> None:
        limits = AdmissionLimits(max_queued=2)
        async with serving(
            directory=letters_dir, is_manual=True, http_port=0, limits=limits
        ) as s:
            waiting = s.stub.Generate(ids_request(1, n=2, max_tokens=1))
            await s.until(lambda: len(s.engine.submits) == 2)
            error = await error_of(s.collect(ids_request(1)))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_s_of(error) == 1.0
            answer = await post(s, {"prompt": "a"})
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "1"
            assert "2 samples wait" in answer.json()["error"]["message"]
            s.engine.step()
            assert [part async for part in waiting]
            again = asyncio.ensure_future(post(s, {"prompt": "a", "max_tokens": 1}))
            await s.until(lambda: len(s.engine.submits) == 3)
            s.engine.step()
            assert (await again).status_code == 200
            assert s.server.front_end.meter.refused == {"queue_full": 2}

    run(scenario)


def test_a_request_that_could_never_fit_is_not_told_to_come_back() -> None:
    async def scenario() -> None:
        async with serving(limits=AdmissionLimits(max_queued=2)) as s:
            error = await error_of(s.collect(ids_request(1, n=3)))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == (
                "n asks for 3 samples, of all prompts together, and this server lets "
                "wait at most 2; ask for fewer"
            )
            assert s.server.front_end.meter.refused == {}

    run(scenario)


def test_all_prompts_of_a_request_count_for_whether_it_could_fit(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        limits = AdmissionLimits(max_tenant_open=3)
        async with serving(directory=letters_dir, http_port=0, limits=limits) as s:
            body = {"prompt": ["a", "b"], "max_tokens": 1}
            answer = await post(s, {**body, "n": 2})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "n"
            assert "n asks for 4 samples" in answer.json()["error"]["message"]
            assert (await post(s, body)).status_code == 200

    run(scenario)


def test_no_sample_gets_more_tokens_than_the_server_gives() -> None:
    async def scenario() -> None:
        async with serving(limits=AdmissionLimits(max_output_tokens=3)) as s:
            for asked in ({}, {"max_tokens": 3}):
                parts = await s.collect(ids_request(1, ignore_eos=True, **asked))
                assert list(parts[-1].complete.output_ids) == [1, 2, 4]
            error = await error_of(s.collect(ids_request(1, max_tokens=4)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "max_tokens of 4 exceeds the 3 of this server"
            error = await error_of(s.collect(ids_request(1, min_tokens=4)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario)


@pytest.mark.parametrize("most", [None, 3])
def test_a_wish_for_too_many_tokens_may_be_cut(most: int | None) -> None:
    limits = AdmissionLimits(max_output_tokens=most, clamps_max_tokens=True)
    prompt = [1] * 995  # 5 tokens are left of the context
    room = most or 5

    async def scenario() -> None:
        async with serving(limits=limits) as s:
            for asked in (room - 1, room, room + 1, 10**6):
                await s.collect(ids_request(*prompt, ignore_eos=True, max_tokens=asked))
                given = s.engine.submits[-1].params.max_tokens
                assert given == min(asked, room)
            await s.collect(ids_request(*prompt, ignore_eos=True))
            assert s.engine.submits[-1].params.max_tokens == room
            error = await error_of(
                s.collect(ids_request(*prompt, min_tokens=9, max_tokens=9))
            )
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario)


def test_a_flood_of_ten_times_what_may_wait_leaves_the_admitted_alone() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True, limits=AdmissionLimits(max_queued=40)) as s:
            refused = asyncio.Semaphore(0)

            async def ask() -> str:
                try:
                    parts = await s.collect(ids_request(1, max_tokens=3))
                except grpc.aio.AioRpcError as error:
                    refused.release()
                    return error.code().name
                return str(list(parts[-1].complete.output_ids))

            calls = [asyncio.ensure_future(ask()) for _ in range(400)]
            for _ in range(360):
                await refused.acquire()
            assert len(s.engine.submits) == 40
            for _ in range(3):
                s.engine.step()
            answers = await asyncio.gather(*calls)
            assert answers.count("RESOURCE_EXHAUSTED") == 360
            assert answers.count("[1, 2, 4]") == 40
            await s.idle()
            admission = s.server.front_end.admission
            assert (admission.queued, admission.num_tenants) == (0, 0)

    run(scenario)


def test_a_tenant_s_quota_leaves_others_alone(letters_dir: Path) -> None:
    async def scenario() -> None:
        limits = AdmissionLimits(max_tenant_open=1)
        async with serving(
            directory=letters_dir, is_manual=True, http_port=0, limits=limits
        ) as s:
            mine = (("x-mell-tenant", "mine"),)
            first = s.stub.Generate(ids_request(1, max_tokens=1), metadata=mine)
            await s.until(lambda: len(s.engine.submits) == 1)
            error = await error_of(s.collect(ids_request(1), metadata=mine))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            answer = await post(s, {"prompt": "a"}, **{"x-mell-tenant": "mine"})
            assert answer.status_code == 429
            other = asyncio.ensure_future(
                post(s, {"prompt": "a", "max_tokens": 1}, **{"x-mell-tenant": "b"})
            )
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            assert (await other).status_code == 200
            assert [part async for part in first]

    run(scenario)


def test_what_waits_too_long_ends_and_frees_what_it_has(letters_dir: Path) -> None:
    async def scenario() -> None:
        limits = AdmissionLimits(queue_timeout_s=0.2)
        async with serving(
            directory=letters_dir, is_manual=True, http_port=0, limits=limits
        ) as s:
            error = await error_of(s.collect(ids_request(1, n=2)))
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "no token within 0.2 s" in error.details()
            assert retry_s_of(error) == 1.0
            for is_streamed in (False, True):
                answer = await post(s, {"prompt": "a", "stream": is_streamed})
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
            assert len(s.engine.aborts) == 4
            await s.idle()

    run(scenario)


def test_a_request_that_has_a_token_waits_no_longer() -> None:
    async def scenario() -> None:
        limits = AdmissionLimits(queue_timeout_s=0.2, request_timeout_s=0.6)
        async with serving(is_manual=True, limits=limits) as s:
            call = s.stub.Generate(ids_request(1))
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            await call.read()
            error = await error_of(call.read())
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "not done within 0.6 s" in error.details()
            await s.until(lambda: len(s.engine.aborts) == 1)
            s.engine.step()
            await s.idle()

    run(scenario)


def test_a_silent_reader_over_grpc_is_ended_and_others_go_on() -> None:
    async def scenario() -> None:
        async with (
            serving(stall_timeout_s=0.5) as s,
            grpc.aio.insecure_channel(
                s.address, options=[("grpc.http2.bdp_probe", 0)]
            ) as channel,
        ):
            generate = channel.unary_stream(
                "/vllm.grpc.engine.VllmEngine/Generate",
                request_serializer=pb.GenerateRequest.SerializeToString,
                response_deserializer=pb.GenerateResponse.FromString,
            )
            silent = generate(ids_request(1, n=16, max_tokens=990, logprobs=20))
            await s.until(lambda: len(s.engine.submits) == 16)
            good = await s.collect(ids_request(1, max_tokens=900))
            assert good[-1].complete.output_ids[:5] == [1, 2, 4, 8, 16]
            await asyncio.wait_for(s.server.front_end.wait_idle(), timeout=20)
            ends = s.server.front_end.meter.measured()["letters"].finished
            assert ends["abort"] >= 1  # tokens were left that nobody took
            del silent

    run(scenario)


def test_a_silent_reader_over_http_is_ended_and_its_connection_too(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(
            directory=letters_dir, http_port=0, stall_timeout_s=0.5
        ) as s:
            assert s.http is not None
            host, _, port = s.http.rpartition(":")
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            body = json.dumps(
                {
                    "prompt": ["a"] * 4,  # some 20 MB of answer: sockets hold 4
                    "n": 16,
                    "max_tokens": 990,
                    "logprobs": 20,
                    "stream": True,
                }
            ).encode()
            sock.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: "
                + str(len(body)).encode()
                + b"\r\n\r\n"
                + body
            )
            await s.until(lambda: len(s.engine.submits) == 64)
            answer = await post(s, {"prompt": "c", "max_tokens": 6})
            assert answer.json()["choices"][0]["text"] == "cflxqc"
            await asyncio.wait_for(s.server.front_end.wait_idle(), timeout=20)
            ends = s.server.front_end.meter.measured()["letters"].finished
            assert ends["abort"] >= 1  # tokens were left that nobody took
            sock.close()

    run(scenario)


def test_only_a_write_that_lasts_is_a_stall() -> None:
    async def scenario() -> None:
        now = [0.0]
        stalls = Stalls(10.0, clock=lambda: now[0])
        started, told = asyncio.Event(), asyncio.Event()

        async def stream() -> str:
            try:
                with stalls.watch() as guard:
                    guard.begin()
                    guard.end()
                    now[0] = 100.0  # waits for the engine, which is no stall
                    stalls.sweep()
                    guard.begin()
                    started.set()
                    await told.wait()
            except StalledReaderError as error:
                return str(error)
            return "went on"

        task = asyncio.ensure_future(stream())
        await started.wait()
        now[0] = 109.0
        stalls.sweep()
        await asyncio.sleep(0)
        assert not task.done()
        now[0] = 110.0
        stalls.sweep()
        assert "took nothing for 10 s" in await task
        stalls.sweep()  # nothing is left to end

    run(scenario)


def test_a_stall_and_a_cancellation_are_a_cancellation() -> None:
    async def scenario() -> None:
        now = [0.0]
        stalls = Stalls(10.0, clock=lambda: now[0])

        async def stream() -> None:
            with stalls.watch() as guard:
                guard.begin()
                await asyncio.sleep(60)

        task = asyncio.ensure_future(stream())
        await asyncio.sleep(0)
        now[0] = 20.0
        stalls.sweep()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario)
