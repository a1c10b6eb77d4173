"""Serves gRPC that does nothing but send, to tell a front end's part from gRPC's.

    python -m benchmarks.service.bare_stream STEP_MS

Every step each stream gets one message of the contract with one token, the clock's
microseconds as in `metronome`. No requests are read, no state is kept. The first line
of output is the address; it ends with SIGTERM.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from typing import final

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from benchmarks.service.metronome import CLOCK_US
from mell_jax.serving.loop import run_loop


@final
class Beats:
    """Wakes every stream at once."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[int]] = []

    async def next(self) -> int:
        """Returns the token of the next step."""
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return await waiter

    def beat(self) -> None:
        token = int(1e6 * time.monotonic()) % CLOCK_US
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(token)


async def serve(step_s: float) -> int:
    """Serves until SIGTERM."""
    beats, told = Beats(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(beats),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    due_s = time.monotonic()
    while not told.is_set():
        due_s = max(due_s + step_s, time.monotonic())
        await asyncio.sleep(due_s - time.monotonic())
        beats.beat()
    await server.stop(None)
    print("{}")
    return 0


def _handlers(beats: Beats) -> grpc.GenericRpcHandler:
    async def send(data: bytes, context: grpc.aio.ServicerContext) -> None:
        count = 0
        while True:
            response = pb.GenerateResponse()
            response.chunk.token_ids.append(await beats.next())
            count += 1
            response.chunk.completion_tokens = count
            await context.write(response.SerializeToString())

    methods: Mapping[str, grpc.RpcMethodHandler] = {
        "Generate": grpc.unary_stream_rpc_method_handler(send)
    }
    return grpc.method_handlers_generic_handler(
        pb.DESCRIPTOR.services_by_name["VllmEngine"].full_name, methods
    )


if __name__ == "__main__":
    sys.exit(run_loop(serve(1e-3 * float(sys.argv[1]))))
