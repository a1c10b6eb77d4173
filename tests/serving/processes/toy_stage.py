"""A front end's process before a real engine, of the toy model.

A `stage` whose pages and batches are real, for what must be left of nothing: leaks.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, final

import grpc
import psutil
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import StepFrame
from mell_jax.engine.thread import EngineThread
from mell_jax.serving.address import Addresses
from mell_jax.worker.compilation import CompilationCounter
from tests.serving.processes.stage import fronts, supervise
from tests.toy import only


@final
class Halting:
    """An engine that can be made to stand still between two steps."""

    def __init__(self, engine: Fleet) -> None:
        self.may_step = threading.Event()
        self.may_step.set()
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> StepFrame | None:
        assert self.may_step.wait(timeout=50), "stood still for 50 s"
        return self._engine.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyStage:
    thread: EngineThread
    may_step: threading.Event  # cleared: the engine stands still
    front: psutil.Process
    stub: pb_grpc.VllmEngineStub

    async def wait_open(self, count: int) -> None:
        """Until the front end has so many requests open."""
        for _ in range(2000):
            info = await self.stub.GetServerInfo(pb.GetServerInfoRequest())
            if info.active_requests == count:
                return
        raise AssertionError(f"{info.active_requests} requests are open, not {count}")


def perform_toy(
    script: Callable[[ToyStage], Coroutine[Any, Any, None]],
    *,
    engine: Fleet,
    **config: Any,
) -> None:
    """Runs `script` while the engine is served; `config` is as for `supervise`."""
    halting = Halting(engine)
    thread = EngineThread(halting, compilations=CompilationCounter())

    async def go(address: str) -> None:
        (front,) = fronts()
        async with grpc.aio.insecure_channel(address) as channel:
            await script(
                ToyStage(
                    thread=thread,
                    may_step=halting.may_step,
                    front=front,
                    stub=pb_grpc.VllmEngineStub(channel),
                )
            )
        assert fronts() == [front], "the front end was replaced"

    def act(addresses: Addresses, _: threading.Event) -> None:
        asyncio.run(asyncio.wait_for(go(addresses.grpc), timeout=120))

    assert supervise(act, engine=thread, **config) == ""


def books_of(engine: Fleet) -> dict[str, int]:
    """What an engine has not forgotten, by where; empty when all is well."""
    instance = only(engine)
    batcher = instance.batcher
    counts = {
        "requests": len(instance.requests),
        "running": batcher.num_running,
        "waiting": batcher.num_waiting,
        "waiting tokens": batcher.waiting_tokens,
        "handles": len(engine.conductor.requests),
        "states": int(not engine.conductor.is_at_rest),
        "places": len(engine.machine.ledger.requests),
        "used pages": batcher.cache.counts.used,
    }
    return {name: count for name, count in counts.items() if count}
