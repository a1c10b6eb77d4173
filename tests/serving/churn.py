"""Requests that come and go in every way there is, and what they leave behind.

The server is one of the toy model, so that every whole answer can be checked. A round
is over when the server says that nothing is open and one more request has been
answered: what the front end told the engine before it is done by then.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import grpc
import psutil
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.engine.core import Engine
from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend import Limits
from tests.serving.harness import error_of, ids_request
from tests.toy import expected

LIMITS = Limits(max_tenant_open=4)
PROMPT = range(1, 21)  # two pages
ENDLESS = {"ignore_eos": True, "max_tokens": 100, "temperature": 0.0}
SHORT = {"max_tokens": 4, "temperature": 0.0}
KINDS = 6  # in `Churn._all_kinds`


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was seen after each round."""

    front_bytes: tuple[int, ...]  # resident memory of the front end's process
    used_pages: tuple[int, ...]


@final
class Churn:
    """Makes rounds of requests; call `run` once."""

    def __init__(
        self,
        stub: pb_grpc.VllmEngineStub,
        *,
        front: psutil.Process,
        load: Callable[[], EngineLoad],
    ) -> None:
        self._stub = stub
        self._front = front
        self._load = load

    async def run(self, *, rounds: int, each: int) -> Trace:
        """`rounds` times `each` requests of every kind, and one more."""
        sizes, pages = [], []
        for number in range(rounds):
            await asyncio.gather(
                *(self._all_kinds(f"{number}-{i}") for i in range(each))
            )
            await self._settle()
            sizes.append(self._front.memory_info().rss)
            pages.append(self._load().used_pages)
        return Trace(front_bytes=tuple(sizes), used_pages=tuple(pages))

    async def _all_kinds(self, tenant: str) -> None:
        await self._end(tenant)
        await self._abort(tenant)
        await self._leave(tenant)
        await self._leave_early(tenant)
        refused = self._whole(tenant, n=5, **SHORT)
        assert (await error_of(refused)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        bad = self._whole(tenant, temperature=-1.0)
        assert (await error_of(bad)).code() == grpc.StatusCode.INVALID_ARGUMENT

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
        """In the middle of an answer."""
        call = self._call(tenant, **ENDLESS)
        await call.read()
        call.cancel()

    async def _leave_early(self, tenant: str) -> None:
        """Wherever the request is by then."""
        call = self._call(tenant, **ENDLESS)
        await call.wait_for_connection()
        call.cancel()

    async def _settle(self) -> None:
        for _ in range(1000):
            info = await self._stub.GetServerInfo(pb.GetServerInfoRequest())
            if not info.active_requests:
                break
        else:
            raise AssertionError(f"{info.active_requests} requests stay open")
        await self._end("the-last-one")

    async def _whole(self, tenant: str, **sampling: Any) -> list[pb.GenerateResponse]:
        return [part async for part in self._call(tenant, **sampling)]

    def _call(self, tenant: str, **sampling: Any) -> grpc.aio.UnaryStreamCall:
        return self._stub.Generate(
            ids_request(*PROMPT, **sampling), metadata=(("x-mell-tenant", tenant),)
        )


def books_of(engine: Engine) -> dict[str, int]:
    """What an engine has not forgotten, by where; empty when all is well."""
    instance, batcher = engine.instance, engine.instance.batcher
    counts = {
        "requests": len(instance.requests),
        "running": batcher.num_running,
        "waiting": batcher.num_waiting,
        "waiting tokens": batcher.waiting_tokens,
        "handles": len(engine._serials) + len(engine._handles),
        "used pages": batcher.cache.counts.used,
    }
    return {name: count for name, count in counts.items() if count}
