"""Front ends as real processes around an engine that the test holds in its hands."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.address import Addresses
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.processes.crew import CrewLimits
from mell_jax.serving.processes.supervisor import run_fronts
from mell_jax.serving.servicer import ServedModel
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    engine: FakeEngine
    addresses: Addresses
    channel: grpc.Channel
    stub: pb_grpc.VllmEngineStub
    over: threading.Event  # service has ended

    def fronts(self) -> list[psutil.Process]:
        """The processes of the front ends."""
        return [p for p in psutil.Process().children() if _is_front(p)]

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
    frontends: int = 1,
    drain_s: float = 20.0,
    stall_s: float = 60.0,
    has_health_port: bool = False,
    limits: CrewLimits | None = None,
    tokenizer_dir: Path | None = None,
) -> str:
    """Runs `script` on a thread while this one supervises; returns why service ended.

    The server is told to stop when the script has ended, unless it has stopped before.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        done = []

        def on_ready(addresses: Addresses) -> None:
            done.append(pool.submit(act, addresses))

        def act(addresses: Addresses) -> None:
            try:
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
            finally:
                if not over.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, lambda *_: None)  # when it is over
        try:
            cause = run_fronts(
                engine,
                models=[
                    ServedModel(name="letters", path="", tokenizer_dir=tokenizer_dir)
                ],
                config=ServerConfig(
                    port=0,
                    drain_s=drain_s,
                    stall_s=stall_s,
                    frontends=frontends,
                    health_port=0 if has_health_port else None,
                ),
                on_ready=on_ready,
                limits=limits,
            )
            over.set()
            for future in done:
                future.result(timeout=50)
        finally:
            signal.signal(signal.SIGTERM, before)
    assert [p for p in psutil.Process().children() if _is_front(p)] == []
    assert not engine.is_alive
    return cause


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


def _is_front(process: psutil.Process) -> bool:
    try:
        return "mell_jax.serving.processes.child" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
