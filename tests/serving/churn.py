"""Requests that come and go in every way there is, and what they leave behind.

The server is one of the toy model, so that every whole answer can be checked. A round
is over when the server says that nothing is open and one more request has been
answered: what the front end told the engine before it is done by then.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, final

import grpc
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.frontend import AdmissionLimits
from tests.serving.harness import error_of, ids_request
from tests.serving.processes.toy_stage import ToyStage
from tests.toy import expected

LIMITS = AdmissionLimits(max_tenant_open=4)
PROMPT = range(1, 21)  # two pages
ENDLESS = {"ignore_eos": True, "max_tokens": 100, "temperature": 0.0}
SHORT = {"max_tokens": 4, "temperature": 0.0}
TRIES = 20  # an answer may be over before more is asked for
KINDS = 6  # in `Churn._all_kinds`


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was seen after each round."""

    front_bytes: tuple[int, ...]  # resident memory of the front end's process
    used_pages: tuple[int, ...]


@final
class Churn:
    """Makes rounds of requests; call `run` once."""

    def __init__(self, stage: ToyStage) -> None:
        self._stage = stage
        self._stub = stage.stub

    async def run(self, *, rounds: int, each: int) -> Trace:
        """`rounds` times `each` requests of every kind, and one more."""
        sizes, pages = [], []
        for number in range(rounds):
            await asyncio.gather(
                *(self._all_kinds(f"{number}-{i}") for i in range(each))
            )
            await self._settle()
            sizes.append(self._stage.front.memory_info().rss)
            pages.append(self._stage.thread.load().used_pages)
        return Trace(front_bytes=tuple(sizes), used_pages=tuple(pages))

    async def _all_kinds(self, tenant: str) -> None:
        await self._end(tenant)
        await self._abort(tenant)
        await self._leave(tenant)
        await self._leave_early(tenant)
        for bad in ({"n": 5}, {"temperature": -1.0}):
            error = await error_of(self._whole(tenant, **bad))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT

    async def _end(self, tenant: str) -> None:
        *_, last = await self._whole(tenant, **SHORT)
        assert list(last.complete.output_ids) == expected(PROMPT, count=4)

    async def _abort(self, tenant: str) -> None:
        call = self._call(tenant, request_id=tenant, **ENDLESS)
        await call.read()
        await self._stub.Abort(pb.AbortRequest(request_ids=[tenant]))
        while (part := await call.read()) is not grpc.aio.EOF:
            last = part
        assert last.complete.finish_reason in ("abort", "length")

    async def _leave(self, tenant: str) -> None:
        """In the middle of an answer, in which no more is let in."""
        for _ in range(TRIES):
            call = self._call(tenant, **ENDLESS)
            await call.read()
            try:
                await self._whole(tenant, n=4, **SHORT)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                call.cancel()
                return
        raise AssertionError("all answers were over before more was asked for")

    async def _leave_early(self, tenant: str) -> None:
        """Wherever the request is by then."""
        call = self._call(tenant, **ENDLESS)
        await call.wait_for_connection()
        call.cancel()

    async def _settle(self) -> None:
        await self._stage.wait_open(0)
        await self._end("the-last-one")

    async def _whole(self, tenant: str, **sampling: Any) -> list[pb.GenerateResponse]:
        return [part async for part in self._call(tenant, **sampling)]

    def _call(self, tenant: str, **sampling: Any) -> grpc.aio.UnaryStreamCall:
        return self._stub.Generate(
            ids_request(*PROMPT, **sampling), metadata=(("x-mell-tenant", tenant),)
        )
