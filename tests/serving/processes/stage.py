"""Front ends as real processes around an engine that the test holds in its hands.

So the engine can be stepped, and killed, between two words of a front end: neither
`harness` (no process) nor `fake_server` (no engine in this one) can do that.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import psutil
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.frontend import AdmissionLimits
from mell_jax.serving.address import Addresses
from mell_jax.serving.config import SERVER_LIMITS, ServerConfig
from mell_jax.serving.observe.progress import LocalEngine
from mell_jax.serving.processes.front_end_pool import FrontEndLimits
from mell_jax.serving.processes.supervisor import run_fronts
from mell_jax.serving.processes.wire import ROUTE_BITS
from mell_jax.serving.served_model import ServedModel
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request

_FRONTS = ("mell_jax.serving.processes.", "tests.serving.processes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    engine: FakeEngine
    addresses: Addresses
    channel: grpc.Channel
    stub: pb_grpc.VllmEngineStub
    over: threading.Event  # service has ended

    def fronts(self) -> list[psutil.Process]:
        """The processes of the front ends."""
        return fronts()

    @contextmanager
    def each(self) -> Iterator[dict[int, pb_grpc.VllmEngineStub]]:
        """A way to each of two front ends, by its number.

        Every request that is made for it asks for one token, and gets it.
        """
        found: dict[int, pb_grpc.VllmEngineStub] = {}
        with ExitStack() as stack:
            while len(found) < 2:  # the kernel spreads connections over them
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = grpc.insecure_channel(self.addresses.grpc, options=options)
                stub = pb_grpc.VllmEngineStub(stack.enter_context(channel))
                before = len(self.engine.submits)
                call = stub.Generate(ids_request(1, max_tokens=1))
                self.engine.wait_until(lambda n=before: len(self.engine.submits) > n)
                if self.engine.is_manual:
                    self.engine.step()
                assert read_tokens(call, count=1) == [1]
                found.setdefault(self.engine.submits[-1].handle >> ROUTE_BITS, stub)
            yield found

    @contextmanager
    def each_http(self) -> Iterator[dict[int, HTTPConnection]]:
        """A connection to each front end, by its process; they stay open."""
        found: dict[int, HTTPConnection] = {}
        processes = self.fronts()
        assert self.addresses.http is not None
        with ExitStack() as stack:
            while len(found) < len(processes):
                connection = HTTPConnection(self.addresses.http, timeout=50)
                connection.request("GET", "/health")
                assert connection.getresponse().read() == b"ok\n"
                own = connection.sock.getsockname()
                (pid,) = [front.pid for front in processes if _talks_to(front, own)]
                if pid in found:
                    connection.close()
                else:
                    found[pid] = connection
                    stack.callback(connection.close)
            yield found

    def open(self, count: int = 1, **sampling: object) -> list[grpc.Call]:
        """Streams that the engine has received, each with the prompt [1]."""
        before = len(self.engine.submits)
        calls = [self.stub.Generate(ids_request(1, **sampling)) for _ in range(count)]
        self.engine.wait_until(lambda: len(self.engine.submits) == before + count)
        return calls

    def ask(self, **sampling: object) -> list[int]:
        """The whole answer to [1] of a front end that may have yet to start."""
        call = self.stub.Generate(
            ids_request(1, **sampling), wait_for_ready=True, timeout=50
        )
        return [token for part in call for token in part.chunk.token_ids]


def perform(
    script: Callable[[Stage], None],
    *,
    engine: FakeEngine,
    limits: FrontEndLimits | None = None,
    tokenizer_dir: Path | None = None,
    has_health_port: bool = False,
    **config: Any,
) -> str:
    """Runs `script` on a thread while this one supervises; returns why service ended.

    The server is told to stop when the script has ended, unless it has stopped before.
    `config` is of the server, which has one front end if it says nothing else.
    """

    def act(addresses: Addresses, over: threading.Event) -> None:
        with grpc.insecure_channel(addresses.grpc) as channel:
            script(
                Stage(
                    engine=engine,
                    addresses=addresses,
                    channel=channel,
                    stub=pb_grpc.VllmEngineStub(channel),
                    over=over,
                )
            )

    cause = supervise(
        act,
        engine=engine,
        limits=limits,
        tokenizer_dir=tokenizer_dir,
        health_port=0 if has_health_port else None,
        **config,
    )
    assert not engine.is_alive
    return cause


def supervise(
    act: Callable[[Addresses, threading.Event], None],
    *,
    engine: LocalEngine,
    limits: FrontEndLimits | None = None,
    admission: AdmissionLimits | None = None,
    tokenizer_dir: Path | None = None,
    **config: Any,
) -> str:
    """As `perform`, of any engine; `act` gets an event that says service has ended."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        done = []

        def on_ready(addresses: Addresses) -> None:
            done.append(pool.submit(stop_after, addresses))

        def stop_after(addresses: Addresses) -> None:
            try:
                act(addresses, over)
            finally:
                if not over.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, lambda *_: None)  # when it is over
        try:
            cause = run_fronts(
                engine,
                models=[
                    ServedModel(
                        name=engine.infos[0].model_name,
                        path="",
                        tokenizer_dir=tokenizer_dir,
                    )
                ],
                config=ServerConfig(
                    **{"port": 0, "frontends": 1, **config},
                    limits=admission or SERVER_LIMITS,
                ),
                on_ready=on_ready,
                limits=limits,
            )
            over.set()
            for future in done:
                future.result(timeout=50)
        finally:
            signal.signal(signal.SIGTERM, before)
    assert fronts() == []
    return cause


def fronts() -> list[psutil.Process]:
    """The processes of this one's front ends."""
    return [p for p in psutil.Process().children() if _is_front(p)]


def read_tokens(call: grpc.Call, *, count: int) -> list[int]:
    """Reads on until `count` tokens have come."""
    tokens: list[int] = []
    while len(tokens) < count:
        tokens += next(call).chunk.token_ids
    return tokens


def end_of(call: grpc.Call) -> grpc.RpcError:
    """How a stream fails that must not end well."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error
    raise AssertionError("the stream ended well")


def is_healthy(stub: pb_grpc.VllmEngineStub) -> bool:
    return bool(stub.HealthCheck(pb.HealthCheckRequest()).healthy)


def _talks_to(process: psutil.Process, address: tuple[str, int]) -> bool:
    connections = process.net_connections(kind="tcp4")
    return any(each.raddr == address for each in connections)


def _is_front(process: psutil.Process) -> bool:
    try:
        return any(word.startswith(_FRONTS) for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
