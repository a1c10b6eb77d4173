"""Starts a server in processes of its own and connects to it, for `--suite=service`."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

CHANNELS = 4
SERVICE = "/vllm.grpc.engine.VllmEngine"
_TICKS_PER_S = 100  # USER_HZ of every Linux there is


@final
class RunningServer:
    """The server runs; these are the processes that talk to clients."""

    def __init__(self, process: subprocess.Popen[str], *, address: str) -> None:
        self.address = address
        self._process = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        self._fronts = [int(pid) for pid in children.split()] or [process.pid]

    def cpu_s(self) -> float:
        """Returns user and system time of the front ends so far."""
        return sum(_cpu_s(pid) for pid in self._fronts)

    def front_mb(self) -> float:
        """Returns resident memory of the front ends."""
        return sum(_resident_mb(pid) for pid in self._fronts)

    def engine_mb(self) -> float:
        """Returns resident memory of the engine's process."""
        return _resident_mb(self._process.pid)

    def end(self) -> Any:
        """Ends it and returns what it has to tell."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate()
        return json.loads(out.splitlines()[-1])


@contextlib.contextmanager
def running(module: str, *args: object) -> Iterator[RunningServer]:
    """Yields a program whose first line of output is its address and whose last is
    JSON.

    Raises:
      RuntimeError: it does not start.
    """
    command = [sys.executable, "-m", f"benchmarks.service.{module}", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError("the server does not start; it says why above")
            yield RunningServer(process, address=address)
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def channels(
    address: str, *, count: int
) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Yields connections of their own, as several clients have."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=options)
            )
            for _ in range(count)
        ]


def generate(
    channel: grpc.aio.Channel,
    prompt: Sequence[int] = (1,),
    *,
    tenant: str = "",
    request_id: str = "",
    **sampling: Any,
) -> grpc.aio.UnaryStreamCall:
    """Returns a stream that was asked for; `sampling` is of `SamplingParams`."""
    method = channel.unary_stream(
        f"{SERVICE}/Generate", response_deserializer=pb.GenerateResponse.FromString
    )
    request = pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=prompt),
        sampling_params=pb.SamplingParams(**sampling),
        stream=True,
    )
    metadata = (("x-mell-tenant", tenant),) if tenant else None
    return method(request.SerializeToString(), metadata=metadata)


async def abort(channel: grpc.aio.Channel, request_id: str) -> None:
    """Ends a request by its id."""
    method = channel.unary_unary(f"{SERVICE}/Abort")
    await method(pb.AbortRequest(request_ids=[request_id]).SerializeToString())


async def count_open(channel: grpc.aio.Channel) -> int:
    """Returns requests that the front end has open which answers."""
    method = channel.unary_unary(
        f"{SERVICE}/GetServerInfo",
        response_deserializer=pb.GetServerInfoResponse.FromString,
    )
    info = await method(pb.GetServerInfoRequest().SerializeToString())
    return int(info.active_requests)


def _cpu_s(pid: int) -> float:
    """User and system time of a process, as Linux tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _resident_mb(pid: int) -> float:
    """Memory of a process that is not swapped out, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) / 1024
    return 0.0  # it has ended
